"""Drafts out of the conversation itself: what followed the last time that the text went like this.

An index grows with the text (a few dictionary entries a token, no scan): for runs of a few lengths it knows
where each stood last, and the time before. So the longest match of what was just said is found at once, and
followed as long as the text repeats itself (prompt lookup decoding; Saxena 2023; LLMA, arXiv 2304.04487).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_RUNS = (4, 2, 1)
"""Lengths of the runs that are looked up, the longest first."""
_KEPT = 2
"""Places that are followed at a time, and known of a run."""
LONGEST = 32
"""Matches are told apart up to this length."""
ALONE, AGREES, DIFFERS, OTHER = range(4)
"""What the other places say where a token is drafted: there are none; they all go on alike; they do not, and
this is the first one's; or it is another's."""


class NgramIndex:
    """All tokens of a conversation, and where their runs stood. ``tokens`` is to be read only."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._places: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._matches: list[_Match] = []

    def become(self, tokens: Sequence[int]) -> None:
        """Hold ``tokens``: only what is new is added if they begin with what is held already."""
        if self.tokens != list(tokens[: len(self.tokens)]):
            self.__init__()  # type: ignore[misc]
        for token in tokens[len(self.tokens) :]:
            self.append(token)

    def append(self, token: int) -> None:
        """One token more."""
        self._matches = [match for match in self._matches if match.goes_on(self.tokens, token)]
        self.tokens.append(token)
        if len(self._matches) < _KEPT:
            self._look_up()
        end = len(self.tokens)
        for run in _RUNS:
            if run <= end:
                key = tuple(self.tokens[-run:])
                self._places[key] = (*self._places.get(key, ())[1 - _KEPT :], end)

    def _look_up(self) -> None:
        end, known = len(self.tokens), {match.place for match in self._matches}
        for run in _RUNS:
            for place in reversed(self._places.get(tuple(self.tokens[-run:]), ()) if run <= end else ()):
                if place not in known:
                    known.add(place)
                    self._matches.append(_Match(place, self._length(place)))
            if len(self._matches) >= _KEPT:
                break
        self._matches = sorted(self._matches, key=lambda match: -match.length)[:_KEPT]

    def _length(self, place: int) -> int:
        """How far back the text before ``place`` is that before the end."""
        tokens, end, length = self.tokens, len(self.tokens), 0
        while length < min(LONGEST, place) and tokens[place - length - 1] == tokens[end - length - 1]:
            length += 1
        return length

    def ahead(self) -> NgramContinuations:
        """What may follow."""
        return NgramContinuations(self.tokens, self._matches, [])


class NgramContinuations:
    """What may follow the text ``tokens`` and a draft behind it, which counts as said."""

    __slots__ = ("_ahead", "_drafted", "_matches", "_tokens")

    def __init__(self, tokens: Sequence[int], matches: Sequence[_Match], drafted: list[int]) -> None:
        """``matches``: where the text stood like this, and went on as ``drafted``."""
        self._tokens, self._matches, self._drafted = tokens, matches, drafted
        self._ahead = len(drafted)

    def __iter__(self) -> Iterator[tuple[int, int, int, NgramContinuations]]:
        """Tokens, the likeliest first, each with the length of the match that it is drawn from, what the
        other matches say (ALONE, AGREES, DIFFERS, OTHER), and what may follow it. Go through it once."""
        said: dict[int, list[_Match]] = {}
        for match in self._matches:
            said.setdefault(self._at(match.place + self._ahead), []).append(match)
        agree = len(said) == 1
        for rank, (token, alike) in enumerate(said.items()):
            length = min(alike[0].length + self._ahead, LONGEST)
            if agree:
                others = AGREES if len(alike) > 1 else ALONE
                self._drafted.append(token)  # nobody else goes on from here
                yield token, length, others, NgramContinuations(self._tokens, alike, self._drafted)
            else:
                behind = [*self._drafted, token]
                yield (
                    token,
                    length,
                    OTHER if rank else DIFFERS,
                    NgramContinuations(self._tokens, alike, behind),
                )

    def _at(self, place: int) -> int:
        """The token at ``place``: loops may be shorter than drafts are long."""
        end = len(self._tokens)
        return self._tokens[place] if place < end else self._drafted[place - end]


class _Match:
    """The text before ``place`` ended in the same ``length`` tokens as all of it does."""

    __slots__ = ("length", "place")

    def __init__(self, place: int, length: int) -> None:
        self.place, self.length = place, length

    def goes_on(self, tokens: Sequence[int], token: int) -> bool:
        """Whether the text, which was ``tokens``, goes on with ``token`` there too: it is further then."""
        if tokens[self.place] != token:
            return False
        self.place, self.length = self.place + 1, self.length + 1
        return True
