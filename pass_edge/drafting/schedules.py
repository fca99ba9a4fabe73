"""Schedules: which tree each forward pass decodes, and what is drafted from the pass.

``plain``     decodes the root alone, one token a pass: the reference.
``head``      verifies in every pass a draft that the hidden head made from the last one; no lookahead tokens.
``two-pass``  is the PaSS paper's own (arXiv 2311.13581, section 3): one pass drafts, the next verifies.
``fused``     verifies in every pass the last draft, and makes the next one.

These draft as much as they can in every step, whatever it costs. The cost-aware schedule ``auto`` is in
planning/planner.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pass_edge.sampling.sampler import Sampler
from pass_edge.settings import FUSED, HEAD, PLAIN, TWO_PASS

from .drafter import Drafter, StepResult
from .mtp import MtpConversation
from .tree import NO_DRAFT, Draft, DraftTree


class Schedule(Protocol):
    """Plans the passes of one conversation. ``needs_hidden``: whether passes must keep hidden states.
    ``mtp``: the MTP layers, if it drafts from them; they must be given the states of all tokens, but those
    of passes in which it ``rests``."""

    needs_hidden: bool
    mtp: MtpConversation | None

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a conversation that holds ``tokens``, the root last, with nothing drafted."""

    def tree(self, root: int) -> DraftTree:
        """Return the tree to decode in the next pass."""

    def may_draft(self, sampler: Sampler) -> bool:
        """Return whether there is anything to draft from, for a text that ``sampler`` chooses. If not, each
        pass decodes the root alone, and ``tree`` and ``learn`` are not called."""

    def rests(self, new_tokens: Sequence[int], depth: int, seconds: float | None) -> bool:
        """Take the tokens of a pass after ``depth`` tokens, and its ``seconds`` if no other conversation
        shared it. Return whether there is nothing else to learn and to draft from it. If not, ``learn``
        follows."""

    def learn(self, result: StepResult) -> None:
        """Learn from a pass, and draft for the next one."""


TreeForm = Callable[[int, Draft, int], DraftTree]
"""(root, draft, lookahead tokens that a node may have) → the tree to decode."""


def plain(root: int, draft: Draft, n_lookahead: int) -> DraftTree:
    """Decode the root alone."""
    return NO_DRAFT.below(root)


def head(root: int, draft: Draft, n_lookahead: int) -> DraftTree:
    """Verify the draft, without lookahead tokens."""
    return draft.below(root)


def two_pass(root: int, draft: Draft, n_lookahead: int) -> DraftTree:
    """Verify the draft if there is one, else decode lookahead tokens to draft from."""
    return draft.below(root) if draft.tokens else NO_DRAFT.below(root, n_lookahead)


def fused(root: int, draft: Draft, n_lookahead: int) -> DraftTree:
    """Verify the draft, with lookahead tokens at every node, since each may be the last one accepted."""
    return draft.below(root, n_lookahead)


FORMS: dict[str, TreeForm] = {PLAIN: plain, HEAD: head, TWO_PASS: two_pass, FUSED: fused}
"""By the name of the schedule."""


class FixedSchedule:
    """Decodes trees of one form, with chains of up to ``drafter.depth`` tokens."""

    def __init__(self, form: TreeForm, drafter: Drafter | None = None) -> None:
        self._form, self._drafter = form, drafter or Drafter(0)
        self._draft = NO_DRAFT
        self.needs_hidden = self._drafter.heads is not None
        self.mtp: MtpConversation | None = None

    def begin(self, tokens: Sequence[int]) -> None:
        self._draft = NO_DRAFT

    def tree(self, root: int) -> DraftTree:
        return self._form(root, self._draft, self._drafter.depth)

    def may_draft(self, sampler: Sampler) -> bool:
        return self._drafter.depth > 0

    def rests(self, new_tokens: Sequence[int], depth: int, seconds: float | None) -> bool:
        return False

    def learn(self, result: StepResult) -> None:
        self._draft = self._drafter.draft(result)


def rows_needed(form: TreeForm, n_lookahead: int) -> int:
    """Return the most rows that a step of ``form`` decodes, with drafts of ``n_lookahead`` tokens and as many
    lookahead tokens at a node."""
    draft = Draft.chain((0,) * n_lookahead)
    trees = (form(0, NO_DRAFT, n_lookahead), form(0, draft, n_lookahead))
    return max(len(tree.tokens) + sum(tree.lookahead) for tree in trees)
