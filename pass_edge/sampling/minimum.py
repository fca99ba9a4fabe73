"""Let a text end only after a number of tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .sampler import Distribution, Logits, Sampler


class MinimumSampler(Sampler):
    """Chooses as ``inner`` does, but none of the tokens that end a text before it has ``count`` tokens.

    A choice is a pure function of (logits, position, history), as without a minimum.
    """

    def __init__(self, inner: Sampler, ends: Collection[int], start: int, count: int) -> None:
        """``start``: the first tokens of every history, the prompt. ``inner`` has no grammar, which might
        allow nothing else than the end."""
        super().__init__(inner.sampling)
        self._inner = inner
        self._ends = np.array(sorted(ends), np.int64)
        self._limit = start + count
        self.seed, self.unconstrained = inner.seed, inner.unconstrained

    @property
    def history_length(self) -> int:
        return -1

    @property
    def adjusts_logits(self) -> bool:
        return True

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        return self._inner.choose(self._masked(logits, position), position, history)

    def distribution(self, logits: Logits, history: Sequence[int]) -> Distribution:
        return self._inner.distribution(self._masked(logits, len(history)), history)

    def allows(self, history: Sequence[int], drafted: Sequence[int], token: int) -> bool:
        return len(history) + len(drafted) >= self._limit or token not in self._ends

    def _masked(self, logits: Logits, position: int) -> Logits:
        if position >= self._limit:
            return logits
        masked = logits.copy()
        masked[self._ends] = -np.inf
        return masked
