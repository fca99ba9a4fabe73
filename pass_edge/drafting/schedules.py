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
from dataclasses import dataclass
from typing import Protocol

from pass_edge.sampling.sampler import Sampler
from pass_edge.settings import FUSED, HEAD, PLAIN, TWO_PASS

from .drafter import Drafter, PassOutput
from .tree import NO_DRAFT, Draft, DraftTree


@dataclass(frozen=True)
class StepResult:
    """One conversation's part of a pass that was decoded, verified and committed.

    ``tree``: what was decoded. ``new_tokens``: the accepted tokens and the new root, which is the last.
    ``output``: what there is to draft from. ``sampler``: has chosen the tokens. ``history``: the tokens up to
    the new root, at least as many as ``sampler`` looks back on. ``rule``: the verification rule. ``depth``:
    tokens in the KV cache before the pass. ``rows``: of the whole pass, which took ``seconds``.
    ``other_rows``: those of other conversations. ``n_sharing``: how many shared the pass. Arrays are valid
    until the next pass.
    """

    tree: DraftTree
    new_tokens: tuple[int, ...]
    output: PassOutput
    sampler: Sampler
    history: Sequence[int]
    rule: str
    depth: int
    rows: int
    seconds: float
    other_rows: int = 0
    n_sharing: int = 1

    @property
    def next_position(self) -> int:
        """The position of the token after the new root."""
        return self.depth + len(self.new_tokens) + 1


class Schedule(Protocol):
    """Plans the passes of one conversation. ``needs_hidden``: whether passes must keep hidden states."""

    needs_hidden: bool

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a conversation that holds ``tokens``, the root last, with nothing drafted."""

    def tree(self, root: int) -> DraftTree:
        """Return the tree to decode in the next pass."""

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

    def begin(self, tokens: Sequence[int]) -> None:
        self._draft = NO_DRAFT

    def tree(self, root: int) -> DraftTree:
        return self._form(root, self._draft, self._drafter.depth)

    def learn(self, result: StepResult) -> None:
        self._draft = self._drafter.draft(
            result.output,
            result.new_tokens[-1],
            result.sampler.unconstrained,
            result.next_position,
            result.history,
            result.rule,
        )


def rows_needed(form: TreeForm, n_lookahead: int) -> int:
    """Return the most rows that a step of ``form`` decodes, with drafts of ``n_lookahead`` tokens and as many
    lookahead tokens at a node."""
    draft = Draft.chain((0,) * n_lookahead)
    trees = (form(0, NO_DRAFT, n_lookahead), form(0, draft, n_lookahead))
    return max(len(tree.tokens) + sum(tree.lookahead) for tree in trees)
