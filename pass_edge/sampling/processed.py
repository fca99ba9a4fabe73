"""Sample from logits that functions of the caller have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .sampler import Distribution, Logits, Sampler, Sampling

LogitsProcessor = Callable[[npt.NDArray[np.intc], Logits], npt.ArrayLike]
"""(the tokens so far, the logits (n_vocab,) float32) → the logits to choose from. It may change its argument,
which is a copy."""


class ProcessedSampler(Sampler):
    """Chooses as ``inner`` does, after ``processors`` have changed the logits, one after the other.

    They are called once for each token, in order, so they may keep state. Nothing is drafted, because a draft
    would not know what they do.
    """

    drafts = False

    def __init__(self, inner: Sampler, processors: Sequence[LogitsProcessor]) -> None:
        super().__init__(inner.sampling)
        self.seed = inner.seed
        self._inner = inner
        self._processors = processors

    @property
    def history_length(self) -> int:
        return -1

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        return self._inner.choose(self._processed(logits, history), position, history)

    def distribution(self, logits: Logits, history: Sequence[int]) -> Distribution:
        return self._inner.distribution(self._processed(logits, history), history)

    def _processed(self, logits: Logits, history: Sequence[int]) -> Logits:
        logits = logits.copy()
        for processor in self._processors:
            logits = np.asarray(processor(np.array(history, np.intc), logits), np.float32)
        return logits


UNDRAFTED = ProcessedSampler(Sampler(Sampling(temperature=0)), ())
"""Greedy, for steps of which only the logits count."""


def processed(sampler: Sampler, processors: Sequence[LogitsProcessor]) -> Sampler:
    """Return ``sampler``, behind ``processors`` if there are any."""
    return ProcessedSampler(sampler, processors) if processors else sampler
