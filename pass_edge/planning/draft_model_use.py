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
        """If so, whether it skipped text. That draft costs more than the next ones, so it is not judged if
        there are any."""
        self._planned: tuple[TreeSelector, DraftTree | None] | None = None
        """As in ``expect``, for the pass that was planned last; None if the draft model has no part in it."""
        self._resting: tuple[TrialBackoff, float] | None = None
        """While it rests: the trials that it waits for, and what the account must cover."""

    def observe(self, result: StepResult) -> None:
        """Continue the conversation with the tokens of a pass, and book what drafts have cost and saved."""
        planned, self._planned = self._planned, None
        if not planned:
            self._follow(result.new_tokens, 0.0)
            return
        selector, without = planned
        saved = selector.outcome(result.tree, result.tree.n_accepted(result.new_tokens))
        if without is not None:
            saved -= selector.outcome(without, without.n_accepted(result.new_tokens))
        gain = (saved - self._spent) / selector.tokens_per_second
        self._follow(result.new_tokens, saved)
        if self._asked is not None:
            goes_on = self._budget.allows(self._price(selector, 1))
            if not self._starts or not goes_on:
                self._asked.record(gain, goes_on=goes_on)
            self._asked = None

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
        conversation = self.conversation
        n_lacking = conversation.n_lacking
        if not self._budget.allows(self._price(selector, n_lacking)):
            return False
        trials = self._trials(selector, builder.best_probability)
        step_cost = selector.tokens_per_second * conversation.step_seconds
        if not trials.is_due():
            return False
        if not selector.may_gain(builder, step_cost, conversation.depth):
            if not builder:  # even drafts that are all right could not pay: what is planned for them is lost
                trials.record(0.0, goes_on=False)
            return False
        is_ready = self._is_ready(n_lacking, selector.tokens_per_second, may_catch_up=not trials.is_rare)
        self._asked = trials if is_ready else None
        return is_ready

    def expect(self, selector: TreeSelector, without: DraftTree | None) -> None:
        """Note the ``selector`` of the next pass, and the tree that it selects ``without`` the draft model;
        None: no drafts, and there were none in the last pass."""
        self._planned = selector, without

    def spend(self, selector: TreeSelector, seconds: float) -> None:
        """Record a step that took ``seconds``, with reading, for the draft model."""
        self._spent = selector.tokens_per_second * (seconds - self._seconds_reading)

    def _price(self, selector: TreeSelector, n_lacking: int) -> float:
        """Return what a draft of one token costs, in tokens, with what must be read of ``n_lacking``."""
        conversation = self.conversation
        n_read = min(n_lacking, conversation.trial_tokens) - 1
        seconds = conversation.step_seconds + n_read * conversation.token_seconds
        return selector.tokens_per_second * seconds + selector.min_probability[0]

    def _trials(self, selector: TreeSelector, best_probability: float) -> TrialBackoff:
        # the least that a draft must be worth: its row, and the time of the draft model's pass
        least = selector.min_probability[0] + selector.tokens_per_second * self.conversation.step_seconds
        rarely_pays = best_probability > LIKELY or (selector.n_sharing > 1 and least > LIKELY)
        return self._known.trials(selector.n_sharing, best_probability, starts_rare=rarely_pays)

    def _is_ready(self, n_lacking: int, tokens_per_second: float, *, may_catch_up: bool) -> bool:
        """Return whether the draft model, which lacks so many tokens, has read enough to draft. If it has
        not, let it read what is paid for. ``may_catch_up``: that may be more than a trial needs."""
        self._starts = False
        if n_lacking + self.conversation.n_skipped > self.conversation.trial_tokens:
            n_lacking = self._choose_reading(n_lacking, tokens_per_second, may_catch_up=may_catch_up)
        if n_lacking > FEW_TOKENS:
            n_lacking -= self._read(tokens_per_second)
        is_ready = n_lacking <= FEW_TOKENS
        self._reads_all &= not is_ready
        return is_ready

    def _choose_reading(self, n_lacking: int, tokens_per_second: float, *, may_catch_up: bool) -> int:
        """If reading all is paid for, go back to what was skipped; otherwise skip what is not needed for a
        trial, unless it may be read. Return how many tokens are lacking then."""
        conversation, budget = self.conversation, self._budget
        cost = tokens_per_second * conversation.token_seconds
        n_all = n_lacking + conversation.n_skipped
        if self._reads_all or budget.lends(cost * n_all, max(self._n_passes, _LIKELY_PASSES)):
            conversation.read_from_start()
            self._reads_all = True
        elif n_lacking > conversation.trial_tokens and not (may_catch_up and budget.allows(cost * n_lacking)):
            conversation.skip_to(conversation.length - conversation.trial_tokens)
            self._starts = True
        return conversation.n_lacking

    def _read(self, tokens_per_second: float) -> int:
        began = time.perf_counter()
        n_read = self.conversation.read()
        self._seconds_reading = time.perf_counter() - began
        cost = tokens_per_second * self._seconds_reading
        if self._reads_all:
            self._budget.borrow(cost)
        else:
            self._spent_reading += cost
        return n_read

    # -- alone ----------------------------------------------------------------------------------------

    def planned_alone(self, selector: TreeSelector, seconds: float, *, is_plain: bool) -> None:
        """Record that a step was planned for the draft model alone, in ``seconds``: it pays for all of them.
        ``is_plain``: the last pass and the next one have no drafts, so it rests until it is due again."""
        self.expect(selector, None)
        self.spend(selector, seconds)
        if is_plain and not self._asked:
            price = self._price(selector, self.conversation.trial_tokens)
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
