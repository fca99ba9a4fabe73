"""What the planner learns about draft sources, shared by the conversations of one engine.

A new conversation therefore starts with what earlier ones have learned. Not thread-safe: the planners of an
engine run in one thread, the computing one.
"""

from __future__ import annotations

from .acceptance import head_rates, ngram_rates

_MAX_INTERVAL, _MAX_HEADS_INTERVAL = 256, 16
"""Most passes between two trials of a source that does not pay: lookahead tokens cost rows, heads about a
tenth of a pass."""
_GAIN_DECAY = 0.95
"""Weight of the old mean gain at each trial. Most drafts of a head lose a little, and some gain much, so the
mean runs over some twenty trials."""
_MIN_HEADS_TRIALS = 8
"""Trials before heads may be judged not to pay."""
_PROBABILITY_BUCKETS = 4
"""Buckets by the probability of the best n-gram draft, for the trials of heads."""
_HEAD_WEIGHT = 0.05
"""Weight of the newest draft in the mean acceptance rate of a head's drafts at one depth."""


class DraftStatistics:
    """Acceptance rates of all draft sources, and whether a source pays for its time.

    Attributes: ``lookahead_trials``, when to add lookahead tokens to a tree.
    """

    def __init__(self, *, lookahead_may_pay: bool = True) -> None:
        """``lookahead_may_pay``: if false, lookahead tokens start as a source that does not pay."""
        self.lookahead_trials = TrialBackoff(starts_rare=not lookahead_may_pay)
        self._head_trials: dict[tuple[int, int], TrialBackoff] = {}
        self._estimates: dict[float, AcceptanceEstimates] = {}
        self._head_probabilities: dict[int, float] = {}

    def estimates(self, temperature: float) -> AcceptanceEstimates:
        """Return the acceptance rates at this temperature, rounded to a tenth."""
        temperature = round(temperature, 1)
        if temperature not in self._estimates:
            self._estimates[temperature] = AcceptanceEstimates()
        return self._estimates[temperature]

    def head_trials(self, n_sharing: int, best_probability: float, *, starts_rare: bool) -> TrialBackoff:
        """Return when to ask heads in a pass that ``n_sharing`` share, with ``best_probability`` the
        path probability of the best n-gram draft.

        Heads that do not pay in a shared pass may pay in one that is not shared, and heads add little to an
        n-gram draft that is nearly certain. ``starts_rare``: as for ``TrialBackoff``, in shared passes only.
        """
        key = n_sharing, int(_PROBABILITY_BUCKETS * best_probability)
        if key not in self._head_trials:
            self._head_trials[key] = TrialBackoff(
                starts_rare=starts_rare and n_sharing > 1,
                max_interval=_MAX_HEADS_INTERVAL,
                min_trials=_MIN_HEADS_TRIALS,
            )
        return self._head_trials[key]

    def observe_head(self, depth: int, probability: float) -> None:
        """Record the acceptance rate of a token that a head has drafted at ``depth``."""
        mean = self.head_probability(depth)
        self._head_probabilities[depth] = (1 - _HEAD_WEIGHT) * mean + _HEAD_WEIGHT * probability

    def head_probability(self, depth: int) -> float:
        """Return the mean acceptance rate of the tokens that heads have drafted at ``depth`` lately."""
        return self._head_probabilities.get(depth, 0.5)


class AcceptanceEstimates:
    """Acceptance rates of drafts from n-grams, from hidden states and from lookahead outputs."""

    def __init__(self) -> None:
        self.ngrams, self.hidden, self.lookahead = ngram_rates(), head_rates(), head_rates()


class TrialBackoff:
    """Decides when to try a draft source that takes time: at every step while it pays, else after an interval
    that doubles with each trial that shows no gain."""

    def __init__(
        self, *, starts_rare: bool = False, max_interval: int = _MAX_INTERVAL, min_trials: int = 0
    ) -> None:
        """``starts_rare``: start at ``max_interval``, the most steps between two trials. ``min_trials``:
        trials before the source may be judged not to pay, unless it starts rare."""
        self._interval = max_interval if starts_rare else 1
        self._max_interval = max_interval
        self._trials_left = 0 if starts_rare else min_trials
        self._steps_waited = 0
        self._mean_gain = 0.0

    def is_due(self) -> bool:
        """Count one step, and return whether the source should be tried in it."""
        self._steps_waited += 1
        return self._steps_waited >= self._interval

    def record(self, gain: float) -> None:
        """Record the gain of one trial, in seconds; negative is a loss."""
        self._steps_waited = 0
        self._trials_left -= 1
        self._mean_gain = _GAIN_DECAY * self._mean_gain + (1 - _GAIN_DECAY) * gain
        pays = self._mean_gain > 0 or self._trials_left > 0
        self._interval = 1 if pays else min(2 * self._interval, self._max_interval)
