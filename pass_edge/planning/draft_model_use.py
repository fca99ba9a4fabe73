"""When a conversation asks the draft model, and what it may read for that.

A head drafts from what a pass has left, but a draft model must have read the whole conversation. What it
lacks is of two kinds. The tokens since the last step like this one are the price of asking it at all such
steps, so they count against its gain. The rest is a prompt, or text in which it did not pay: reading that is
an investment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pass_edge.drafting.draft_model import FEW_TOKENS, DraftConversation

from .draft_statistics import ReadingBudget, TrialBackoff


class DraftModelUse:
    """The use of a draft model in one conversation. Not thread-safe. Attributes: ``conversation``."""

    def __init__(self, conversation: DraftConversation, budget: ReadingBudget) -> None:
        """``budget``: shared with other conversations."""
        self.conversation, self._budget = conversation, budget
        self.begin(())

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a conversation that holds ``tokens``, the root last."""
        self.conversation.begin(tokens)
        self._start = len(tokens)
        self._last_length: dict[TrialBackoff, int] = {}
        """Tokens of the conversation when a step with these trials came last."""
        self._n_passes, self._unpaid = 0, 0.0

    def append(self, tokens: Sequence[int]) -> None:
        """Continue the conversation with the ``tokens`` of one pass, the new root last."""
        self.conversation.append(tokens)
        self._budget.count_pass()
        self._n_passes += 1

    def is_ready(self, trials: TrialBackoff, pass_seconds: float) -> bool:
        """Return whether to ask the draft model in this step. If it should be asked but has not read enough,
        let it read. ``pass_seconds``: time of a plain pass."""
        conversation, length = self.conversation, self.conversation.length
        n_new = length - self._last_length.get(trials, self._start)
        self._last_length[trials] = length
        if not trials.is_due():
            return False
        n_lacking, token_seconds = conversation.n_lacking, conversation.token_seconds
        if n_lacking <= FEW_TOKENS:
            return True
        n_invested = max(0, n_lacking - n_new)
        needed = n_invested * token_seconds / pass_seconds
        if not self._budget.allows(needed, trials.mean_gain / pass_seconds, self._n_passes):
            return False
        self._unpaid += (n_lacking - n_invested) * token_seconds
        began = time.perf_counter()
        conversation.read()
        seconds = time.perf_counter() - began
        self._budget.spend(seconds / pass_seconds * n_invested / n_lacking)
        return conversation.n_lacking <= FEW_TOKENS

    def record(self, trials: TrialBackoff, gain: float) -> None:
        """Record the ``gain`` of asking the draft model, in seconds, without what it read before."""
        gain, self._unpaid = gain - self._unpaid, 0.0
        trials.record(gain)
        if gain < 0:
            self._budget.record_loss()
