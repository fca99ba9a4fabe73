"""The metrics that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pass_edge.openai.answers import Answer
from pass_edge.openai.embeddings import EmbeddingAnswer

from .admission import AdmissionQueue

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)


class Metrics:
    """The metrics of one server."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, description: str) -> Counter:
            return Counter(f"pass_edge_{name}", description, registry=registry)

        self._answers = counter("answers", "Answers that ended, complete or not")
        self._refused = counter("refused", "Requests refused because the queue was full or closed")
        self._tokens = {
            "prompt_tokens": counter("prompt_tokens", "Prompt tokens"),
            "completion_tokens": counter("completion_tokens", "Generated tokens"),
            "cached_tokens": counter("cached_tokens", "Prompt tokens found in the KV cache"),
            "passes": counter("passes", "Forward passes that generated tokens"),
            "drafted_tokens": counter("drafted_tokens", "Drafted tokens"),
            "accepted_tokens": counter("accepted_tokens", "Drafted tokens that were accepted"),
        }
        self._seconds = Histogram(
            "pass_edge_answer_seconds",
            "Seconds from the start of an answer to its end, without waiting",
            buckets=_SECONDS,
            registry=registry,
        )
        for name, description, value in (
            ("requests", "Requests being answered or waiting", lambda: queue.size),
            ("requests_answering", "Requests being answered", lambda: queue.active),
            ("slots", "Requests that can be answered at once", lambda: queue.parallel),
        ):
            Gauge(f"pass_edge_{name}", description, registry=registry).set_function(value)

    def count_refusal(self) -> None:
        """Count a request that was not admitted."""
        self._refused.inc()

    def count_answer(self, answer: Answer | EmbeddingAnswer, seconds: float) -> None:
        """Count an answer that ended, whether complete, cancelled or failed."""
        usage = answer.usage
        counts = {**usage, **usage.get("prompt_tokens_details", {}), **usage.get("draft", {})}
        self._answers.inc()
        self._seconds.observe(seconds)
        for name, counter in self._tokens.items():
            counter.inc(counts.get(name, 0))

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)
