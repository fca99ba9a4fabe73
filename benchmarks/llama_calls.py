"""How often steps call llama.cpp, and how long these calls take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pass_edge import Engine, Sampling
from pass_edge.native.draft_head import DraftHead
from pass_edge.native.library import llama
from pass_edge.sampling.sampler import Sampler


@dataclass
class Calls:
    """Calls of llama.cpp. ``rows``: decoded batches by their rows; ``graphs_reused``: for how many of them
    the graph was reused; ``waits``: reads that wait for its results; ``seconds``: in all these calls;
    ``seconds_of_heads``: in draft heads."""

    rows: Counter[int] = field(default_factory=Counter)
    graphs_reused: int = 0
    waits: int = 0
    seconds: float = 0.0
    seconds_of_heads: float = 0.0

    @property
    def decodes(self) -> int:
        return self.rows.total()


@contextmanager
def counted() -> Iterator[Calls]:
    """Count the calls within the block."""
    calls = Calls()

    def timed(call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        calls.seconds += time.perf_counter() - start
        return result

    def decode(context: Any, batch: Any) -> Any:
        before = llama.llama_perf_context(context).n_reused
        status = timed(originals["llama_decode"], context, batch)
        calls.rows[batch.n_tokens] += 1
        calls.graphs_reused += llama.llama_perf_context(context).n_reused - before
        return status

    def waiting(name: str) -> Callable[[Any], Any]:
        def wait(context: Any) -> Any:
            calls.waits += 1
            return timed(originals[name], context)

        return wait

    def step(head: DraftHead, *vectors: Any) -> Any:
        start = time.perf_counter()
        result = original_step(head, *vectors)
        calls.seconds_of_heads += time.perf_counter() - start
        return result

    original_step = DraftHead.step
    readers = ("llama_get_logits", "llama_get_embeddings")
    originals = {name: getattr(llama, name) for name in ("llama_decode", *readers)}
    try:
        for name, counting in (("llama_decode", decode), *((name, waiting(name)) for name in readers)):
            setattr(llama, name, counting)
        DraftHead.step = step  # type: ignore[assignment, method-assign]
        yield calls
    finally:
        DraftHead.step = original_step  # type: ignore[method-assign]
        for name, original in originals.items():
            setattr(llama, name, original)


def calls_of_steps(engine: Engine, prompt: Sequence[int], tokens: int) -> dict[str, float]:
    """Return the calls per step of steps that yield ``tokens`` tokens in all, and the share of time outside
    these calls."""
    session, sampler, steps, generated = engine.session, Sampler(Sampling(temperature=0)), 0, 0
    session.prefill(prompt)
    session.step(sampler)  # waits for the prompt, too
    with counted() as calls:
        start = time.perf_counter()
        while generated < tokens:
            generated += len(session.step(sampler).tokens)
            steps += 1
        elapsed = time.perf_counter() - start
    return {
        "decodes_per_step": calls.decodes / steps,
        "waits_per_step": calls.waits / steps,
        "graphs_reused": calls.graphs_reused / calls.decodes,
        "host_share": 1 - calls.seconds / elapsed,
        "of_it_heads": calls.seconds_of_heads / elapsed,
    }
