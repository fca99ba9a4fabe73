"""How often drafts are right, learnt while they run.

Evidence sorts drafts into kinds: for n-grams the length of the match and what the time before says; for a
head, what it gives itself. Each kind counts how often it was right and wrong, forgetting slowly; what a model
file and a conversation are like is not known before, so every kind begins with a few imagined cases.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from pass_edge.drafting.ngrams import LONGEST

_IMAGINED = 8.0
_KEPT = 0.99  # of a kind's counts, at each new case
_CAUTION = 0.15  # standard deviations of one case
"""Taken off every estimate: the cases that are drafted are picked for looking good, so they are a little
worse than they look."""


class AcceptanceRates:
    """The chance that a draft is right, by kind; ``begin``: what each kind begins with."""

    def __init__(self, begin: Sequence[float]) -> None:
        self._right = [chance * _IMAGINED for chance in begin]
        self._all = [_IMAGINED] * len(begin)
        self._chances = [_cautious(chance) for chance in begin]

    def of(self, kind: int) -> float:
        """The chance that a draft of ``kind`` is right if all before it are, 0 to 1."""
        return self._chances[kind]

    def observe(self, kind: int, right: bool) -> None:
        """One more case of ``kind``."""
        self._right[kind] = self._right[kind] * _KEPT + right
        self._all[kind] = self._all[kind] * _KEPT + 1
        self._chances[kind] = _cautious(self._right[kind] / self._all[kind])


def _cautious(mean: float) -> float:
    return max(0.0, mean - _CAUTION * math.sqrt(mean * (1 - mean)))


# -- n-grams: the begin is what sampled answers to everyday questions show; greedy ones repeat more, and are
#    soon known to. Rows: ALONE, AGREES, DIFFERS; columns: matches of so many tokens or more.
LENGTHS = (1, 2, 3, 4, 5, 7, 10, 16, LONGEST)
_BEGIN = (
    (0.26, 0.59, 0.68, 0.72, 0.74, 0.78, 0.83, 0.88, 0.90),
    (0.56, 0.81, 0.85, 0.88, 0.90, 0.93, 0.94, 0.95, 0.99),
    (0.18, 0.35, 0.43, 0.52, 0.56, 0.63, 0.70, 0.75, 0.80),
    (0.09, 0.15, 0.15, 0.15, 0.15, 0.18, 0.20, 0.20, 0.10),
)


def ngram_rates() -> AcceptanceRates:
    """For ``ngram_bucket``."""
    return AcceptanceRates([chance for row in _BEGIN for chance in row])


def ngram_bucket(length: int, before: int) -> int:
    """The kind of a draft from a match of ``length`` tokens (2 or more)."""
    return before * len(LENGTHS) + bisect.bisect_right(LENGTHS, length) - 1


# -- heads: by depth, by whether it is their best token, and by what they give it

_GIVEN = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96)
_DEPTHS = 4


def head_rates() -> AcceptanceRates:
    """For ``head_bucket``: a head thinks too well of itself at first."""
    middles = [(low + high) / 2 for low, high in zip(_GIVEN, (*_GIVEN[1:], 1.0), strict=True)]
    return AcceptanceRates([0.8 * middle for _ in range(2 * _DEPTHS) for middle in middles])


def head_bucket(depth: int, given: float, *, other: bool = False) -> int:
    """The kind of a draft at ``depth`` (0: right behind the root) whose head gives it ``given``; ``other``:
    and something else more."""
    row = min(depth, _DEPTHS - 1) + other * _DEPTHS
    return row * len(_GIVEN) + bisect.bisect_right(_GIVEN, given) - 1
