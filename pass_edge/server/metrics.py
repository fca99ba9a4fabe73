"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pass_edge.openai.answers import Answer

from .admission import AdmissionQueue

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)


class Metrics:
    """Counts of one server."""

    def __init__(self, line: AdmissionQueue) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, what: str) -> Counter:
            return Counter(f"pass_edge_{name}", what, registry=registry)

        self._answers = counter("answers", "Requests answered, to the end or not")
        self._refused = counter("refused", "Requests sent away because the queue was full")
        self._tokens = {
            "prompt_tokens": counter("prompt_tokens", "Tokens of prompts"),
            "completion_tokens": counter("completion_tokens", "Tokens generated"),
            "cached_tokens": counter("cached_tokens", "Tokens of prompts that were not decoded anew"),
            "passes": counter("passes", "Forward passes that generated"),
            "drafted_tokens": counter("drafted_tokens", "Tokens drafted"),
            "accepted_tokens": counter("accepted_tokens", "Drafted tokens that were right"),
        }
        self._seconds = Histogram(
            "pass_edge_answer_seconds",
            "From an answer's turn to its end",
            buckets=_SECONDS,
            registry=registry,
        )
        for name, what, value in (
            ("requests", "Requests being answered or waiting", lambda: line.size),
            ("requests_answering", "Requests being answered", lambda: line.answering),
            ("slots", "Requests that may be answered at once", lambda: line.parallel),
        ):
            Gauge(f"pass_edge_{name}", what, registry=registry).set_function(value)

    def refused(self) -> None:
        """A request found no place."""
        self._refused.inc()

    def answered(self, answer: Answer, seconds: float) -> None:
        """An answer has ended, however it did."""
        usage = answer.usage
        counts = {**usage, **usage["prompt_tokens_details"], **usage["draft"]}
        self._answers.inc()
        self._seconds.observe(seconds)
        for name, count in self._tokens.items():
            count.inc(counts[name])

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
