"""What the conversations of one engine learn together, so that none has to find it out alone."""

from __future__ import annotations

from .acceptance import head_rates, ngram_rates

_RAREST, _RAREST_HEADS = 256, 16
"""Passes between two trials of what does not pay: lookahead tokens cost rows, heads a tenth of a pass."""
_REMEMBERED = 0.95
"""Of the mean gain, at each trial: most drafts of a head lose a little, and some gain much."""
_PATIENCE = 8
"""Trials of heads before these may be judged."""

_QUOTED = 4  # kinds of passes by the chance of what is drafted before heads are asked


class DraftStatistics:
    """How often drafts are right, and which sources pay. Each conversation may be in a thread of its own: of
    two cases that come at once one may be lost, which is no harm. ``looking``: whether nodes get lookahead
    tokens."""

    def __init__(self, *, looks: bool = True) -> None:
        """``looks``: whether lookahead tokens are likely to pay."""
        self.looking = TrialBackoff(rarely=not looks)
        self._thinking: dict[tuple[int, int], TrialBackoff] = {}
        self._worth: dict[float, AcceptanceEstimates] = {}
        self._foreseen: dict[int, float] = {}

    def at(self, temperature: float) -> AcceptanceEstimates:
        """What drafts are worth at about this temperature."""
        temperature = round(temperature, 1)
        if temperature not in self._worth:
            self._worth[temperature] = AcceptanceEstimates()
        return self._worth[temperature]

    def thinking(self, sharing: int, quoted: float, *, rarely: bool) -> TrialBackoff:
        """Whether heads are asked where ``sharing`` conversations share a pass, and the likeliest draft there
        is already is right with the chance ``quoted``: what does not pay in company may pay alone, and what
        does where nothing is known may not where much is. ``rarely``: as the Gate's, in company."""
        key = sharing, int(_QUOTED * quoted)
        if key not in self._thinking:
            self._thinking[key] = TrialBackoff(
                rarely=rarely and sharing > 1, rarest=_RAREST_HEADS, patience=_PATIENCE
            )
        return self._thinking[key]

    def foresee(self, depth: int, chance: float) -> None:
        """A draft at ``depth`` was right with this ``chance``, if all before it are."""
        self._foreseen[depth] = 0.95 * self.foreseen(depth) + 0.05 * chance

    def foreseen(self, depth: int) -> float:
        """What such chances were lately."""
        return self._foreseen.get(depth, 0.5)


class AcceptanceEstimates:
    """What drafts from the conversation, from hidden states and from lookahead outputs are worth."""

    def __init__(self) -> None:
        self.ngrams, self.hidden, self.lookahead = ngram_rates(), head_rates(), head_rates()


class TrialBackoff:
    """Whether something that takes time is tried: always while it pays, else ever more rarely."""

    def __init__(self, *, rarely: bool = False, rarest: int = _RAREST, patience: int = 0) -> None:
        """``rarely``: it begins as one that did not pay; ``rarest``: steps between two trials, at most;
        ``patience``: trials before it may be found not to pay."""
        self._every, self._waited, self._mean = (rarest if rarely else 1), 0, 0.0
        self._rarest, self._patience = rarest, 0 if rarely else patience

    def opens(self) -> bool:
        self._waited += 1
        return self._waited >= self._every

    def settle(self, gained: float) -> None:
        """It was tried, and gained so many seconds (lost, if negative)."""
        self._waited = 0
        self._patience -= 1
        self._mean = _REMEMBERED * self._mean + (1 - _REMEMBERED) * gained
        pays = self._mean > 0 or self._patience > 0
        self._every = 1 if pays else min(2 * self._every, self._rarest)
