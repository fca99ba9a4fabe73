"""How often drafts are right, learnt while they run.

Evidence sorts drafts into kinds: for n-grams the length of the match and what the time before says; for a
head, what it gives itself. Each kind counts how often it was right and wrong, forgetting slowly; what a model
file and a conversation are like is not known before, so every kind begins with a few imagined cases.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from .ngrams import LONGEST

_IMAGINED = 8.0
_KEPT = 0.99  # of a kind's counts, at each new case
_CAUTION = 0.15  # standard deviations of one case
"""Taken off every estimate: the cases that are drafted are picked for looking good, so they are a little
worse than they look."""


class Chances:
    """The chance that a draft is right, by kind; ``begin``: what each kind begins with."""

    def __init__(self, begin: Sequence[float]) -> None:
        self._right = [chance * _IMAGINED for chance in begin]
        self._all = [_IMAGINED] * len(begin)

    def of(self, kind: int) -> float:
        """The chance that a draft of ``kind`` is right if all before it are, 0 to 1."""
        mean = self._right[kind] / self._all[kind]
        return max(0.0, mean - _CAUTION * math.sqrt(mean * (1 - mean)))

    def observe(self, kind: int, right: bool) -> None:
        """One more case of ``kind``."""
        self._right[kind] = self._right[kind] * _KEPT + right
        self._all[kind] = self._all[kind] * _KEPT + 1


# -- n-grams: the begin is what sampled answers to everyday questions show; greedy ones repeat more, and are
#    soon known to. Rows: ALONE, AGREES, DIFFERS; columns: matches of so many tokens or more.
LENGTHS = (2, 3, 4, 5, 7, 10, 16, LONGEST)
_BEGIN = (
    (0.46, 0.57, 0.63, 0.71, 0.75, 0.84, 0.88, 0.90),
    (0.77, 0.77, 0.80, 0.86, 0.87, 0.92, 0.94, 0.99),
    (0.22, 0.30, 0.36, 0.43, 0.45, 0.54, 0.60, 0.60),
)


def ngram_chances() -> Chances:
    """For ``ngram_kind``."""
    return Chances([chance for row in _BEGIN for chance in row])


def ngram_kind(length: int, before: int) -> int:
    """The kind of a draft from a match of ``length`` tokens (2 or more)."""
    return before * len(LENGTHS) + bisect.bisect_right(LENGTHS, length) - 1


# -- heads: by depth and by what they give their best token

_GIVEN = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96)
_DEPTHS = 4


def head_chances() -> Chances:
    """For ``head_kind``: a head thinks too well of itself at first."""
    middles = [(low + high) / 2 for low, high in zip(_GIVEN, (*_GIVEN[1:], 1.0), strict=True)]
    return Chances([0.8 * middle for _ in range(_DEPTHS) for middle in middles])


def head_kind(depth: int, given: float) -> int:
    """The kind of a draft at ``depth`` (0: right behind the root) whose head gives it ``given``."""
    return min(depth, _DEPTHS - 1) * len(_GIVEN) + bisect.bisect_right(_GIVEN, given) - 1
