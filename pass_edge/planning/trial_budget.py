"""What drafts of a draft model may cost before they have gained as much.

All conversations of an engine share one account, in tokens: seconds count as the tokens that are decoded
in them. Every decoded token pays in a share of a token, and accepted drafts pay in what they have saved. All
that drafts cost is drawn from it: reading, drafting, planning, and their rows of the pass. The source is
asked only where the account covers the cost. So however bad it is, it loses no more than this share of all
tokens, and one trial.
"""

from __future__ import annotations

_SHARE = 0.02
"""Of each decoded token: what may be lost."""
_MOST = 8.0
"""Most tokens in the account, so that a source which has paid long does not lose long. No pass is charged
more than this: it would have waited for the machine, not for the source."""
_GAIN_DECAY = 0.97
"""Weight of the old mean gain at each pass; the mean runs over some thirty passes."""


class TrialBudget:
    """The account of one draft source, and its loans for reading. Not thread-safe."""

    def __init__(self) -> None:
        self._saved = self._debt = self._mean_gain = 0.0

    def record(self, tokens: int, gain: float) -> None:
        """Record a pass that yielded ``tokens``. ``gain``: what the source has saved in it, less its cost."""
        gain = max(gain, -_MOST)
        self._mean_gain = _GAIN_DECAY * self._mean_gain + (1 - _GAIN_DECAY) * gain
        saved = self._saved + _SHARE * tokens + gain
        self._saved = min(saved, _MOST)
        self._debt = max(0.0, self._debt - (saved - self._saved))

    def allows(self, cost: float) -> bool:
        """Return whether the account covers ``cost``."""
        return cost <= self._saved

    def lends(self, cost: float, n_passes: int) -> bool:
        """Return whether a text may be read at ``cost`` without drawing on the account: the mean gain must
        pay for it, and for what is still lent, within ``n_passes``."""
        return self._debt + cost <= self._mean_gain * n_passes

    def borrow(self, cost: float) -> None:
        """Record that ``cost`` was lent. It is paid back when the account is full."""
        self._debt += min(cost, _MOST)
