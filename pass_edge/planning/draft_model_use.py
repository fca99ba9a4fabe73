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

from .draft_statistics import TrialBackoff
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
        self._start = len(tokens)
        self._last_length: dict[TrialBackoff, int] = {}
        """Tokens of the conversation when a step with these trials came last."""
        self._n_passes, self._unpaid = 0, 0.0
        self._reads_all = False
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

    def is_ready(self, trials: TrialBackoff, selector: TreeSelector, builder: DraftBuilder) -> bool:
        """Return whether to ask the draft model in this step, which has the drafts in ``builder`` already. If
        it should be asked but has not read enough, let it read."""
        length = self.conversation.length
        n_new = length - self._last_length.get(trials, self._start)
        self._last_length[trials] = length
        step = selector.tokens_per_second * self.conversation.step_seconds
        return (
            trials.is_due()
            and self._budget.allows(step + selector.min_probability[0])
            and selector.value_if_right(step, self.conversation.depth) > selector.value(builder.build())
            and self._has_read(selector.tokens_per_second, n_new)
        )

    def _has_read(self, tokens_per_second: float, n_new: int) -> bool:
        """Return whether the draft model has read enough to draft; let it read what is paid for. ``n_new``:
        tokens since the last step of the same trials."""
        conversation, budget = self.conversation, self._budget
        cost = tokens_per_second * conversation.token_seconds
        n_lacking, n_skipped = conversation.n_lacking, conversation.n_skipped
        if n_lacking + n_skipped > FEW_TOKENS and not self._reads_all:
            n_passes = max(self._n_passes, _LIKELY_PASSES)
            self._reads_all = budget.lends(cost * (n_lacking + n_skipped), n_passes)
            if self._reads_all:
                conversation.read_from_start()
            elif n_lacking > _TRIAL_TOKENS and not budget.allows(cost * n_lacking):
                conversation.skip_to(conversation.length - _TRIAL_TOKENS)
        if conversation.n_lacking > FEW_TOKENS:
            if not (self._reads_all or budget.allows(cost * conversation.n_lacking)):
                return False
            self._read(tokens_per_second, n_new)
        is_ready = conversation.n_lacking <= FEW_TOKENS
        self._reads_all &= not is_ready
        return is_ready

    def _read(self, tokens_per_second: float, n_new: int) -> None:
        """Let the draft model read. New tokens must be read at all steps like this one, so they count against
        the gain of asking it; the others are a prompt, or text in which it did not pay."""
        n_lacking, began = self.conversation.n_lacking, time.perf_counter()
        count = self.conversation.read()
        seconds = time.perf_counter() - began
        self._unpaid += seconds * min(1.0, n_new / n_lacking)
        if self._reads_all:
            self._budget.borrow(tokens_per_second * self.conversation.token_seconds * count)
        else:
            self._spent += tokens_per_second * seconds

    def record(
        self, trials: TrialBackoff, gain: float, seconds: float, selector: TreeSelector, without: DraftTree
    ) -> None:
        """Record that the draft model was asked. ``gain``: what is expected of its drafts, in seconds, less
        their time; without what it read before. ``seconds``: the time. ``without``: the tree without them."""
        trials.record(gain - self._unpaid)
        self._unpaid = 0.0
        self._spent += selector.tokens_per_second * seconds
        self._asked = selector, without
