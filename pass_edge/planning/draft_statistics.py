"""What the planner learns about draft sources, shared by the conversations of one engine.

A new conversation therefore starts with what earlier ones have learned. Not thread-safe: the planners of an
engine run in one thread, the computing one.
"""

from __future__ import annotations

from functools import partial

from .acceptance import head_rates, ngram_rates
from .trial_budget import TrialBudget

LIKELY = 0.5
"""If a draft pays only above this probability, heads are tried rarely at first. The draft model is, too,
where there is a draft of more than this probability."""
_MAX_INTERVAL, _MAX_HEADS_INTERVAL = 256, 16
"""Most passes between two trials of a source that does not pay: lookahead tokens cost rows, heads about a
tenth of a pass."""
_GAIN_DECAY = 0.95
"""Weight of the old mean gain at each trial. Most drafts of a head lose a little, and some gain much, so the
mean runs over some twenty trials."""
_FIRST_HEADS_TRIALS, _MODEL_TRIALS = 8, 4
"""Trials before heads may be judged not to pay; and those of a draft model in a row, each time."""
_PROBABILITY_BUCKETS = 4
"""Buckets by the probability of the best n-gram draft, for the trials of heads."""
_HEAD_WEIGHT = 0.05
"""Weight of the newest draft in the mean acceptance rate of a head's drafts at one depth."""


class DraftStatistics:
    """Acceptance rates of all draft sources, and whether a source pays for its time.

    Attributes: ``lookahead_trials``, when to add lookahead tokens to a tree; ``heads`` and ``draft_model``,
    what is known of their chains; ``budget``, what drafts of a draft model may cost.
    """

    def __init__(self, *, lookahead_may_pay: bool = True) -> None:
        """``lookahead_may_pay``: if false, lookahead tokens start as a source that does not pay."""
        self.lookahead_trials = TrialBackoff(starts_rare=not lookahead_may_pay)
        self.heads = ChainStatistics(_MAX_HEADS_INTERVAL, _FIRST_HEADS_TRIALS)
        self.draft_model = ChainStatistics(_MAX_INTERVAL, _MODEL_TRIALS, _MODEL_TRIALS)
        self.budget = TrialBudget()
        self._estimates: dict[float, AcceptanceEstimates] = {}

    def estimates(self, temperature: float) -> AcceptanceEstimates:
        """Return the acceptance rates at this temperature, rounded to a tenth."""
        temperature = round(temperature, 1)
        if temperature not in self._estimates:
            self._estimates[temperature] = AcceptanceEstimates()
        return self._estimates[temperature]


class ChainStatistics:
    """Whether a source of chains, heads or a draft model, pays, and how far its chains go."""

    def __init__(self, max_interval: int, first_trials: int, in_a_row: int = 1) -> None:
        """Arguments: as for TrialBackoff."""
        self._make_trials = partial(
            TrialBackoff, max_interval=max_interval, first_trials=first_trials, in_a_row=in_a_row
        )
        self._trials: dict[tuple[int, int], TrialBackoff] = {}
        self._probabilities: dict[int, float] = {}

    def trials(self, n_sharing: int, best_probability: float, *, starts_rare: bool) -> TrialBackoff:
        """Return when to ask the source in a pass that ``n_sharing`` share, with ``best_probability`` the
        path probability of the best draft of cheaper sources.

        A source that does not pay in a shared pass may pay in one that is not shared, and it adds little to a
        draft that is nearly certain. ``starts_rare``: as for ``TrialBackoff``.
        """
        key = n_sharing, int(_PROBABILITY_BUCKETS * best_probability)
        if key not in self._trials:
            self._trials[key] = self._make_trials(starts_rare=starts_rare)
        return self._trials[key]

    def observe(self, depth: int, probability: float) -> None:
        """Record the acceptance rate of a token that was drafted at ``depth``."""
        mean = self.probability(depth)
        self._probabilities[depth] = (1 - _HEAD_WEIGHT) * mean + _HEAD_WEIGHT * probability

    def probability(self, depth: int) -> float:
        """Return the mean acceptance rate of the tokens that were drafted at ``depth`` lately; if there were
        none, that of the depth before."""
        if depth < 0:
            return 0.5
        return self._probabilities.get(depth) or self.probability(depth - 1)


class AcceptanceEstimates:
    """Acceptance rates of drafts from n-grams, hidden states, lookahead outputs, and a draft model."""

    def __init__(self) -> None:
        self.ngrams = ngram_rates()
        self.hidden, self.lookahead, self.draft_model = head_rates(), head_rates(), head_rates()


class TrialBackoff:
    """Decides when to try a draft source that takes time: at every step while it pays, else after an interval
    that doubles with each trial that shows no gain.

    Attributes: ``mean_gain``, of the last trials, in seconds; ``is_rare``: it does not pay.
    """

    def __init__(
        self,
        *,
        starts_rare: bool = False,
        max_interval: int = _MAX_INTERVAL,
        first_trials: int = 1,
        in_a_row: int = 1,
    ) -> None:
        """``starts_rare``: start at ``max_interval``, the most steps between two trials; otherwise
        ``first_trials`` come before the source may be judged not to pay. ``in_a_row``: trials after each
        interval."""
        self._interval = max_interval if starts_rare else 1
        self._max_interval, self._in_a_row = max_interval, in_a_row
        self._trials_left = 0 if starts_rare else first_trials
        self._steps_waited = 0
        self.mean_gain = 0.0

    @property
    def is_rare(self) -> bool:
        return self._interval > 1

    def is_due(self) -> bool:
        """Count one step, and return whether the source should be tried in it."""
        self._steps_waited += 1
        if self._trials_left <= 0 and self._steps_waited >= self._interval:
            self._trials_left = self._in_a_row
        return self._trials_left > 0

    def record(self, gain: float, *, goes_on: bool = True) -> None:
        """Record the gain of one trial, in seconds; negative is a loss. ``goes_on``: more trials in a row may
        follow."""
        self._steps_waited = 0
        self._trials_left = self._trials_left - 1 if goes_on else 0
        self.mean_gain = _GAIN_DECAY * self.mean_gain + (1 - _GAIN_DECAY) * gain
        if self.mean_gain > 0:
            self._interval = 1
        elif self._trials_left <= 0:
            self._interval = min(2 * self._interval, self._max_interval)
