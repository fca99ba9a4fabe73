"""Find where two texts diverge, and how near a tie the choice was there.

A backend that rounds differently for other batch sizes may change a text, but only at near ties. Used by
gpu_measurements.py and the tests of exactness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pass_edge import Sampling
from pass_edge.decoding.session import Session
from pass_edge.sampling.noise import TARGET, gumbel
from pass_edge.sampling.sampler import Logits, Sampler

UNFILTERED = (Sampling(temperature=0), Sampling(temperature=0.8, seed=11, top_k=0, top_p=1, min_p=0))
"""Greedy and sampled, without filters: a filter has near ties of its own."""


class MarginSampler(Sampler):
    """A sampler that records, by position, by how many logits the chosen token led: ``margins``."""

    def __init__(self, sampling: Sampling) -> None:
        super().__init__(sampling)
        self.margins: dict[int, float] = {}

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        temperature = self.sampling.temperature
        noise = gumbel(self.seed, position, TARGET, np.arange(len(logits))) if temperature else 0
        second, first = np.partition(logits + temperature * noise, -2)[-2:]
        self.margins[position] = float(first - second)
        return super().choose(logits, position, history)


def decode(session: Session, prompt: Sequence[int], sampler: Sampler, count: int) -> list[int]:
    session.prefill(prompt)
    ids: list[int] = []
    while len(ids) < count:
        ids += session.step(sampler).tokens
    return ids[:count]


def margin_at_divergence(
    plain: Session, drafting: Session, prompt: Sequence[int], sampling: Sampling, count: int
) -> float | None:
    """Return by how many logits plain decoding's token led where ``drafting`` first chose another one; None
    if the texts of ``count`` tokens are the same."""
    sampler = MarginSampler(sampling)
    ids = decode(plain, prompt, sampler, count)
    others = decode(drafting, prompt, Sampler(sampling), count)
    differing = [i for i in range(count) if ids[i] != others[i]]
    return sampler.margins[len(prompt) + differing[0]] if differing else None
