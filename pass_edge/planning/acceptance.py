"""Acceptance rates of drafts, learned while decoding.

Drafts are sorted into buckets by the evidence for them: for n-grams the length of the match and the agreement
of the matches, for a head its depth and its confidence. Each bucket counts accepted and rejected drafts, and
old cases fade. The model file and the conversation are not known in advance, so each bucket starts from a
prior that weighs as much as a few cases.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from pass_edge.drafting.ngrams import MAX_MATCH_LENGTH

_PRIOR_CASES = 8.0
_DECAY = 0.99
"""A bucket's counts are multiplied by this at each new case."""
_SAFETY_MARGIN = 0.15
"""Standard deviations of one case, subtracted from every estimate. The planner drafts what looks best, and
what was selected for looking good is on average a little worse than it looks."""


class AcceptanceRates:
    """The probability that a draft is accepted, by bucket."""

    def __init__(self, prior: Sequence[float]) -> None:
        """``prior``: the initial rate of each bucket."""
        self._accepted = [rate * _PRIOR_CASES for rate in prior]
        self._total = [_PRIOR_CASES] * len(prior)
        self._rates = [_with_margin(rate) for rate in prior]

    def rate(self, bucket: int) -> float:
        """Return the probability, 0 to 1, that a draft of ``bucket`` is right if all drafts above it are."""
        return self._rates[bucket]

    def observe(self, bucket: int, accepted: bool) -> None:
        """Record one outcome in ``bucket``."""
        self._accepted[bucket] = self._accepted[bucket] * _DECAY + accepted
        self._total[bucket] = self._total[bucket] * _DECAY + 1
        self._rates[bucket] = _with_margin(self._accepted[bucket] / self._total[bucket])


def _with_margin(rate: float) -> float:
    return max(0.0, rate - _SAFETY_MARGIN * math.sqrt(rate * (1 - rate)))


# -- n-grams ------------------------------------------------------------------------------------------

MATCH_LENGTHS = (1, 2, 3, 4, 5, 7, 10, 16, MAX_MATCH_LENGTH)
"""The shortest match of each bucket."""
_NGRAM_PRIOR = (
    (0.26, 0.59, 0.68, 0.72, 0.74, 0.78, 0.83, 0.88, 0.90),
    (0.56, 0.81, 0.85, 0.88, 0.90, 0.93, 0.94, 0.95, 0.99),
    (0.18, 0.35, 0.43, 0.52, 0.56, 0.63, 0.70, 0.75, 0.80),
    (0.09, 0.15, 0.15, 0.15, 0.15, 0.18, 0.20, 0.20, 0.10),
)
"""Measured on sampled answers to everyday questions. Greedy answers repeat more, which is soon learned.
Rows: SINGLE, UNANIMOUS, FIRST_CHOICE, OTHER_CHOICE. Columns: MATCH_LENGTHS."""


def ngram_rates() -> AcceptanceRates:
    """Return the initial rates for the buckets of ``ngram_bucket``."""
    return AcceptanceRates([rate for row in _NGRAM_PRIOR for rate in row])


def ngram_bucket(match_length: int, agreement: int) -> int:
    """Return the bucket of a draft from a match of ``match_length`` tokens (1 or more)."""
    return agreement * len(MATCH_LENGTHS) + bisect.bisect_right(MATCH_LENGTHS, match_length) - 1


# -- heads --------------------------------------------------------------------------------------------

_CONFIDENCES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96)
"""The lowest confidence of each bucket."""
_DEPTHS = 4
"""Deeper drafts count as the last of these depths."""


def head_rates() -> AcceptanceRates:
    """Return the initial rates for the buckets of ``head_bucket``: 0.8 of the confidence, because heads are
    overconfident."""
    bounds = zip(_CONFIDENCES, (*_CONFIDENCES[1:], 1.0), strict=True)
    midpoints = [(low + high) / 2 for low, high in bounds]
    return AcceptanceRates([0.8 * midpoint for _ in range(2 * _DEPTHS) for midpoint in midpoints])


def head_bucket(depth: int, confidence: float, *, alternative: bool = False) -> int:
    """Return the bucket of a token that a head drafts at ``depth`` (0: directly below the root) with
    ``confidence``, 0 to 1. ``alternative``: it is not the head's best token."""
    row = min(depth, _DEPTHS - 1) + alternative * _DEPTHS
    return row * len(_CONFIDENCES) + bisect.bisect_right(_CONFIDENCES, confidence) - 1
