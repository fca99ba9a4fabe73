"""The ways to spend forward passes: a schedule says which tree a pass decodes, and learns from what it gave.

``plain``     the root alone: one token a pass, the reference.
``head``      every pass verifies a draft that the hidden head made from the last one; no lookahead tokens.
``two-pass``  the PaSS paper's own (arXiv 2311.13581, section 3): one pass drafts, the next verifies.
``fused``     every pass verifies the last draft and makes the next one.

These draft as much at every step, whatever it costs; planner.py has the one that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pass_edge.sampling.sampler import Sampler

from .drafter import Drafter, PassOutput
from .tree import NO_DRAFT, Draft, DraftTree


@dataclass(frozen=True)
class StepResult:
    """A pass over ``tree`` that was verified and committed. ``new``: the tokens it gave, the new root last;
    ``outcome``: what it said of the tokens after these; ``history``
    ends with the new root and may be cut to what ``sampler`` looks back on; ``depth``: tokens in the cache
    before; ``rows`` decoded in ``seconds``, ``others`` of them for other conversations: ``sharing`` shared
    the pass. Arrays are valid until the next pass."""

    tree: DraftTree
    new: tuple[int, ...]
    outcome: PassOutput
    sampler: Sampler
    history: Sequence[int]
    rule: str
    depth: int
    rows: int
    seconds: float
    others: int = 0
    sharing: int = 1

    @property
    def next_position(self) -> int:
        """Of the token after the new root."""
        return self.depth + len(self.new) + 1


class Schedule(Protocol):
    """What a session asks. ``needs_hidden``: whether passes are to keep hidden states."""

    needs_hidden: bool

    def begin(self, tokens: Sequence[int]) -> None:
        """The conversation is ``tokens`` now, the root last; nothing is drafted."""

    def tree(self, root: int, depth: int) -> DraftTree:
        """The tree to decode below ``root``, behind ``depth`` tokens in the cache."""

    def learn(self, passed: StepResult) -> None:
        """Make the next draft."""


Form = Callable[[int, Draft, int], DraftTree]
"""(root, draft, lookahead tokens a group may have) → the tree to decode."""


def plain(root: int, draft: Draft, group: int) -> DraftTree:
    """One token a pass."""
    return NO_DRAFT.below(root)


def head(root: int, draft: Draft, group: int) -> DraftTree:
    """Verify the draft; no lookahead tokens."""
    return draft.below(root)


def two_pass(root: int, draft: Draft, group: int) -> DraftTree:
    """Draft if there is no draft, else verify it."""
    return draft.below(root) if draft.tokens else NO_DRAFT.below(root, group)


def fused(root: int, draft: Draft, group: int) -> DraftTree:
    """Verify the draft, with a lookahead group at every node that may turn out to be the last one."""
    return draft.below(root, group)


FORMS: dict[str, Form] = {"plain": plain, "head": head, "two-pass": two_pass, "fused": fused}


class Fixed:
    """The same form at every step, with chains of up to ``drafter.depth`` tokens."""

    def __init__(self, form: Form, drafter: Drafter | None = None) -> None:
        self._form, self._drafter = form, drafter or Drafter(0)
        self._draft = NO_DRAFT
        self.needs_hidden = self._drafter.heads is not None

    def begin(self, tokens: Sequence[int]) -> None:
        self._draft = NO_DRAFT

    def tree(self, root: int, depth: int) -> DraftTree:
        return self._form(root, self._draft, self._drafter.depth)

    def learn(self, passed: StepResult) -> None:
        self._draft = self._drafter.draft(
            passed.outcome,
            passed.new[-1],
            passed.sampler,
            passed.next_position,
            passed.history,
            passed.rule,
        )


def rows_needed(form: Form, group: int) -> int:
    """Most rows that a step of ``form`` decodes with groups of ``group`` lookahead tokens."""
    draft = Draft.chain((0,) * group)
    return max(
        len(tree.tokens) + sum(tree.lookahead) for tree in (form(0, NO_DRAFT, group), form(0, draft, group))
    )
