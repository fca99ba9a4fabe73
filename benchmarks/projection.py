"""The speed-up that a chain of drafts would give, from what passes cost and how often drafts are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pass_edge.stats import Stats

ROWS: dict[str, Callable[[int], int]] = {"head": lambda k: k + 1, "fused": lambda k: (k + 1) ** 2}
"""Rows of a pass with k drafts. The hidden head needs no further rows; with the schedule "fused", each of the
k + 1 nodes has k lookahead tokens."""


def shares(stats: Sequence[Stats]) -> list[float]:
    """Return, by depth, the share of passes whose drafts were all right up to it, of those that drafted so
    deep."""
    drafted, accepted = Counter[int](), Counter[int]()
    for answer in stats:
        drafted.update(dict(enumerate(answer.drafted)))
        accepted.update(dict(enumerate(answer.accepted)))
    return [round(accepted[depth] / drafted[depth], 4) for depth in sorted(drafted)]


def projections(
    costs: Mapping[str, Sequence[float]], widths: Sequence[int], acceptance: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, float]]:
    """Return the projected speed-up of the best chain of drafts with ``costs``, milliseconds at each of
    ``widths``, by depth and schedule, without the host's time. ``acceptance``: by schedule, as in
    ``speed_up``."""
    return {
        depth: {
            schedule: speed_up(right, dict(zip(widths, milliseconds, strict=True)), ROWS[schedule])
            for schedule, right in acceptance.items()
        }
        for depth, milliseconds in costs.items()
    }


def speed_up(acceptance: Sequence[float], costs: Mapping[int, float], rows: Callable[[int], int]) -> float:
    """Return the projected speed-up of the best chain of drafts.

    ``acceptance``: the shares of passes whose first 1, 2 … drafts were *all* right. Their sum is the gain of
    a pass, even if the acceptance of one draft depends on the one before. For shorter chains than those
    counted, the result is a little too low, because passes then start at better positions. ``costs``:
    milliseconds by width.
    """
    widths, milliseconds = list(costs), list(costs.values())
    ratios = [
        tokens * milliseconds[0] / np.interp(rows(k), widths, milliseconds)
        for k, tokens in enumerate(1 + np.cumsum(acceptance), 1)
        if rows(k) <= widths[-1]
    ]
    return round(float(max([1.0, *ratios])), 3)
