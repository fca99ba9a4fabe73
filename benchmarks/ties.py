"""Where a backend rounds differently for other batch sizes, texts may part, but only at near ties: by how
much the chosen token led there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pass_edge import Sampling
from pass_edge.decoding.session import Session
from pass_edge.sampling.noise import TARGET, gumbel
from pass_edge.sampling.sampler import Logits, Sampler

UNFILTERED = (Sampling(temperature=0), Sampling(temperature=0.8, seed=11, top_k=0, top_p=1, min_p=0))
"""Filters would let a token in or out at a near tie of its own."""


class Margins(Sampler):
    """Notes by how many logits the chosen token led at each position."""

    def __init__(self, sampling: Sampling) -> None:
        super().__init__(sampling)
        self.at: dict[int, float] = {}

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        warmth = self.sampling.temperature
        noise = gumbel(self.seed, position, TARGET, np.arange(len(logits))) if warmth else 0
        second, first = np.partition(logits + warmth * noise, -2)[-2:]
        self.at[position] = float(first - second)
        return super().choose(logits, position, history)


def decode(session: Session, prompt: Sequence[int], sampler: Sampler, count: int) -> list[int]:
    session.prefill(prompt)
    ids: list[int] = []
    while len(ids) < count:
        ids += session.step(sampler).tokens
    return ids[:count]


def lead_at_parting(
    plain: Session, drafting: Session, prompt: Sequence[int], sampling: Sampling, count: int
) -> float | None:
    """By how many logits plain decoding's token led where ``drafting`` first chose another; None if the
    texts of ``count`` tokens are the same."""
    margins = Margins(sampling)
    ids = decode(plain, prompt, margins, count)
    others = decode(drafting, prompt, Sampler(sampling), count)
    parted = [i for i in range(count) if ids[i] != others[i]]
    return margins.at[len(prompt) + parted[0]] if parted else None
