"""When a conversation asks the draft model, what it reads for that, and what came of it.

A head drafts from what a pass has left, but a draft model must have read the conversation. Until it has shown
that it pays, it reads only the last few tokens; then it reads the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pass_edge.drafting.draft_model import FEW_TOKENS, DraftConversation
from pass_edge.drafting.drafter import StepResult
from pass_edge.drafting.tree import DraftTree

from .tree_selection import DraftBuilder, TreeSelector
from .trial_budget import TrialBudget

_TRIAL_TOKENS = 16
"""So many tokens are read for a trial, if reading all that is lacking is not paid for."""
_LIKELY_PASSES = 64
"""A conversation is taken to need as many passes more as it has had, but at least so many."""


class DraftModelUse:
    """The use of a draft model in one conversation. Not thread-safe. Attributes: ``conversation``."""

    def __init__(self, conversation: DraftConversation, budget: TrialBudget) -> None:
        """``budget``: shared with other conversations."""
        self.conversation, self._budget = conversation, budget
        self._spent = 0.0
        self.begin(())

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a conversation that holds ``tokens``, the root last."""
        self.conversation.begin(tokens)
        self._n_passes, self._reads_all = 0, False
        self._asked: tuple[TreeSelector, DraftTree] | None = None
        """If the last step asked the draft model: what selected the tree, and the tree without its drafts."""

    def observe(self, result: StepResult) -> None:
        """Continue the conversation with the tokens of a pass, and book what drafts have cost and saved."""
        self.conversation.append(result.new_tokens)
        self._n_passes += 1
        saved = 0.0
        if self._asked:
            selector, without = self._asked
            trees = result.tree, without
            values = [selector.outcome(tree, tree.n_accepted(result.new_tokens)) for tree in trees]
            saved, self._asked = values[0] - values[1], None
        self._budget.record(len(result.new_tokens), saved - self._spent)
        self._spent = 0.0

    def is_affordable(self, selector: TreeSelector) -> bool:
        """Return whether a draft of one token may be lost."""
        step = selector.tokens_per_second * self.conversation.step_seconds
        return self._budget.allows(step + selector.min_probability[0])

    def is_ready(self, selector: TreeSelector, builder: DraftBuilder) -> bool:
        """Return whether the draft model can gain anything over the drafts in ``builder``, and has read
        enough to draft. If it has not, let it read what is paid for."""
        conversation, rate = self.conversation, selector.tokens_per_second
        if_right = selector.value_if_right(rate * conversation.step_seconds, conversation.depth)
        if if_right <= selector.value(builder.build()) or not self._may_read(rate):
            return False
        if conversation.n_lacking > FEW_TOKENS:
            self._read(rate)
        is_ready = conversation.n_lacking <= FEW_TOKENS
        self._reads_all &= not is_ready
        return is_ready

    def _may_read(self, tokens_per_second: float) -> bool:
        """Return whether reading is paid for; skip what is not needed for a trial if reading all is not."""
        conversation, budget = self.conversation, self._budget
        cost = tokens_per_second * conversation.token_seconds
        n_lacking, n_skipped = conversation.n_lacking, conversation.n_skipped
        if self._reads_all or n_lacking + n_skipped <= FEW_TOKENS:
            return True
        n_passes = max(self._n_passes, _LIKELY_PASSES)
        if budget.lends(cost * (n_lacking + n_skipped), n_passes):
            conversation.read_from_start()
            self._reads_all = True
        elif n_lacking > _TRIAL_TOKENS and not budget.allows(cost * n_lacking):
            conversation.skip_to(conversation.length - _TRIAL_TOKENS)
        return self._reads_all or budget.allows(cost * conversation.n_lacking)

    def _read(self, tokens_per_second: float) -> None:
        began = time.perf_counter()
        self.conversation.read()
        cost = tokens_per_second * (time.perf_counter() - began)
        if self._reads_all:
            self._budget.borrow(cost)
        else:
            self._spent += cost

    def record(self, seconds: float, selector: TreeSelector, without: DraftTree) -> None:
        """Record that the draft model was asked, which took ``seconds``. ``selector``: selects the tree;
        ``without``: the tree that it selects without the drafts."""
        self._spent += selector.tokens_per_second * seconds
        self._asked = selector, without
