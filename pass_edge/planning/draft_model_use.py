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

from .draft_statistics import LIKELY, DraftStatistics, TrialBackoff
from .tree_selection import DraftBuilder, TreeSelector

_LIKELY_PASSES = 64
"""A conversation is taken to need as many passes more as it has had, but at least so many."""
_FIRST_DRAFTS = 3
"""Drafts that the account must cover before the draft model starts."""


class DraftModelUse:
    """The use of a draft model in one conversation. Not thread-safe. Attributes: ``conversation``."""

    def __init__(self, conversation: DraftConversation, statistics: DraftStatistics) -> None:
        """``statistics``: shared with other conversations."""
        self.conversation = conversation
        self._known, self._budget = statistics.draft_model, statistics.budget
        self._spent = self._spent_reading = 0.0
        """What the last step cost, in tokens."""
        self._seconds_reading = 0.0
        """The part of the last step in which text was read, whether that was lent or not."""
        self.begin(())

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a conversation that holds ``tokens``, the root last."""
        self.conversation.begin(tokens)
        self._n_passes, self._reads_all = 0, False
        self._asked: TrialBackoff | None = None
        """If the last step asked the draft model: the trials of which this was one."""
        self._starts = False
        """If so, whether it skipped text: that draft costs more than the next ones, and is not judged."""
        self._planned: tuple[TreeSelector, DraftTree | None] | None = None
        """What selected the tree of a pass to which the draft model may have added, and the tree without its
        drafts; None: it has planned all of the tree."""
        self._resting: tuple[TrialBackoff, float] | None = None
        """While it rests: the trials that it waits for, and what the account must cover."""

    def observe(self, result: StepResult) -> None:
        """Continue the conversation with the tokens of a pass, and book what drafts have cost and saved."""
        saved = 0.0
        if self._planned:
            selector, without = self._planned
            saved = selector.outcome(result.tree, result.tree.n_accepted(result.new_tokens))
            if without:
                saved -= selector.outcome(without, without.n_accepted(result.new_tokens))
            if self._asked and not self._starts:
                self._asked.record((saved - self._spent) / selector.tokens_per_second)
        self._asked = self._planned = None
        self._follow(result.new_tokens, saved)

    def _follow(self, tokens: Sequence[int], saved: float) -> None:
        self.conversation.append(tokens)
        self._n_passes += 1
        self._budget.record(len(tokens), saved - self._spent - self._spent_reading)
        self._spent = self._spent_reading = self._seconds_reading = 0.0

    # -- ask ------------------------------------------------------------------------------------------

    def is_due(self, selector: TreeSelector, builder: DraftBuilder) -> bool:
        """Return whether to ask the draft model: a draft may be lost, a trial is due, it may gain something
        over the drafts in ``builder``, and it has read enough. If it has not, let it read what is paid
        for."""
        if not self._budget.allows(self._price(selector, self.conversation.n_lacking)):
            return False
        trials, conversation = self._trials(selector, builder.best_probability), self.conversation
        step_cost = selector.tokens_per_second * conversation.step_seconds
        if not trials.is_due() or not selector.may_gain(builder, step_cost, conversation.depth):
            return False
        self._asked = trials if self._is_ready(selector.tokens_per_second, trials) else None
        return self._asked is not None

    def asked(self, selector: TreeSelector, without: DraftTree) -> None:
        """Record that the draft model was asked. ``selector``: selects the tree; ``without``: the tree that
        it selects without the drafts."""
        self._planned = selector, without

    def spend(self, selector: TreeSelector, seconds: float) -> None:
        """Record a step that took ``seconds``, with reading, for the draft model."""
        self._spent = selector.tokens_per_second * (seconds - self._seconds_reading)

    def _price(self, selector: TreeSelector, n_lacking: int) -> float:
        """Return what the account must cover, in tokens, if the draft model lacks so many tokens: a draft of
        one token. Where it starts from the last few tokens, these and some more drafts, because a single
        draft shows little, and costs more than those that follow it."""
        conversation, rate = self.conversation, selector.tokens_per_second
        draft = rate * conversation.step_seconds + selector.min_probability[0]
        n_read = min(n_lacking, conversation.trial_tokens) - 1
        n_drafts = _FIRST_DRAFTS if n_lacking > conversation.trial_tokens else 1
        return n_drafts * draft + rate * n_read * conversation.token_seconds

    def _trials(self, selector: TreeSelector, best_probability: float) -> TrialBackoff:
        # the least that a draft must be worth: its row, and the time of the draft model's pass
        least = selector.min_probability[0] + selector.tokens_per_second * self.conversation.step_seconds
        rarely_pays = best_probability > LIKELY or (selector.n_sharing > 1 and least > LIKELY)
        return self._known.trials(selector.n_sharing, best_probability, starts_rare=rarely_pays)

    def _is_ready(self, tokens_per_second: float, trials: TrialBackoff) -> bool:
        """Return whether the draft model has read enough to draft. If it has not, let it read what is paid
        for."""
        conversation = self.conversation
        if not self._may_read(tokens_per_second, may_catch_up=not trials.is_rare):
            return False
        if conversation.n_lacking > FEW_TOKENS:
            self._read(tokens_per_second)
        is_ready = conversation.n_lacking <= FEW_TOKENS
        self._reads_all &= not is_ready
        return is_ready

    def _may_read(self, tokens_per_second: float, *, may_catch_up: bool) -> bool:
        """Return whether reading is paid for. If reading all is not, skip what is not needed for a trial,
        unless what is lacking is paid for and ``may_catch_up``."""
        conversation, budget = self.conversation, self._budget
        self._starts = False
        cost = tokens_per_second * conversation.token_seconds
        n_lacking, n_skipped = conversation.n_lacking, conversation.n_skipped
        if self._reads_all or n_lacking + n_skipped <= conversation.trial_tokens:
            return True
        n_passes = max(self._n_passes, _LIKELY_PASSES)
        if budget.lends(cost * (n_lacking + n_skipped), n_passes):
            conversation.read_from_start()
            self._reads_all = True
        elif n_lacking > conversation.trial_tokens and not (may_catch_up and budget.allows(cost * n_lacking)):
            conversation.skip_to(conversation.length - conversation.trial_tokens)
            self._starts = True
        return self._reads_all or budget.allows(cost * conversation.n_lacking)

    def _read(self, tokens_per_second: float) -> None:
        began = time.perf_counter()
        self.conversation.read()
        self._seconds_reading = time.perf_counter() - began
        cost = tokens_per_second * self._seconds_reading
        if self._reads_all:
            self._budget.borrow(cost)
        else:
            self._spent_reading += cost

    # -- alone ----------------------------------------------------------------------------------------

    def planned_alone(self, selector: TreeSelector, seconds: float, *, is_plain: bool) -> None:
        """Record that a step was planned for the draft model alone, in ``seconds``: it pays for all of them.
        ``is_plain``: the last pass and the next one have no drafts, so it rests until it is due again."""
        self._planned = selector, None
        self.spend(selector, seconds)
        if is_plain and not self._asked:
            price = self._price(selector, self.conversation.trial_tokens + 1)
            self._resting = self._trials(selector, 0.0), price

    def rests(self, tokens: Sequence[int]) -> bool:
        """Return whether there is nothing to plan after a pass that yielded ``tokens``, because the draft
        model rests. If so, continue the conversation with them."""
        if not self._resting:
            return False
        trials, price = self._resting
        if self._budget.allows(price) and trials.is_due():
            self._resting = None
            return False
        self._follow(tokens, 0.0)
        return True
