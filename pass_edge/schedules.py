"""The ways to spend a forward pass: which tree a step decodes, given the draft at hand.

``plain``     the root alone: one token a pass, the reference.
``head``      every pass verifies a draft that the hidden head made from the last one; no lookahead tokens.
``two-pass``  the PaSS paper's own (arXiv 2311.13581, section 3): one pass drafts, the next verifies.
``fused``     every pass verifies the last draft and makes the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .sampling import Distribution
from .tree import DraftTree


@dataclass(frozen=True)
class Draft:
    """What a lookahead group proposes after the root: a chain of ``tokens`` and, for the rejection
    rule, the distribution that each was drawn from."""

    tokens: tuple[int, ...] = ()
    proposals: tuple[Distribution, ...] = ()


NO_DRAFT = Draft()
Schedule = Callable[[int, Draft, int], DraftTree]
"""(root, draft, lookahead tokens a group may have) → the tree to decode."""


def chain(root: int, draft: Draft, lookahead: tuple[int, ...]) -> DraftTree:
    """The root with ``draft`` below it, one child a node."""
    n = 1 + len(draft.tokens)
    return DraftTree(
        tokens=(root, *draft.tokens),
        parents=tuple(range(-1, n - 1)),
        lookahead=lookahead,
        proposals=dict(enumerate(draft.proposals)),
    )


def plain(root: int, draft: Draft, group: int) -> DraftTree:
    """One token a pass."""
    return chain(root, NO_DRAFT, (0,))


def head(root: int, draft: Draft, group: int) -> DraftTree:
    """Verify the draft; no lookahead tokens."""
    return chain(root, draft, (0,) * (1 + len(draft.tokens)))


def two_pass(root: int, draft: Draft, group: int) -> DraftTree:
    """Draft if there is no draft, else verify it."""
    if draft.tokens:
        return head(root, draft, group)
    return chain(root, NO_DRAFT, (group,))


def fused(root: int, draft: Draft, group: int) -> DraftTree:
    """Verify the draft, with a lookahead group at every node that may turn out to be the last one."""
    return chain(root, draft, (group,) * (1 + len(draft.tokens)))


SCHEDULES: dict[str, Schedule] = {"plain": plain, "head": head, "two-pass": two_pass, "fused": fused}


def rows_needed(schedule: Schedule, group: int) -> int:
    """Most rows that a step of ``schedule`` decodes with groups of ``group`` lookahead tokens."""
    draft = Draft((0,) * group)
    return max(
        len(tree.tokens) + sum(tree.lookahead)
        for tree in (schedule(0, NO_DRAFT, group), schedule(0, draft, group))
    )
