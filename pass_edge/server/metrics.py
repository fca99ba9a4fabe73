"""The metrics that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pass_edge.openai.answers import Answer
from pass_edge.openai.embeddings import EmbeddingAnswer

from .model_pool import ModelPool

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)


class Metrics:
    """The metrics of one server."""

    def __init__(self, pool: ModelPool) -> None:
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
        queues = [model.queue for model in pool.models]
        for name, description, value in (
            ("requests", "Requests being answered or waiting", lambda: sum(each.size for each in queues)),
            ("requests_answering", "Requests being answered", lambda: sum(each.active for each in queues)),
            ("slots", "Requests that can be answered at once", lambda: sum(each.parallel for each in queues)),
        ):
            Gauge(f"pass_edge_{name}", description, registry=registry).set_function(value)
        registry.register(_Models(pool))

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


class _Models(Collector):
    """What became of each model of a pool."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily("pass_edge_model_loaded", "1 while the model is loaded", labels=["model"])
        counts = {
            name: CounterMetricFamily(f"pass_edge_model_{name}", description, labels=["model"])
            for name, description in (
                ("loads", "Times that the model was loaded"),
                ("failed_loads", "Times that the model could not be loaded"),
                ("unloads", "Times that the model was unloaded for another one"),
            )
        }
        for model in self._pool.models:
            loaded.add_metric([model.name], float(model.loaded is not None))
            for name, family in counts.items():
                family.add_metric([model.name], getattr(model, name))
        yield from (loaded, *counts.values())
