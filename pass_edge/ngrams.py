"""Drafts out of the conversation itself: what followed the last time that the text went like this.

An index grows with the text (a few dictionary entries a token, no scan): for runs of a few lengths it knows
where each stood last, and the time before. So the longest match of what was just said is found at once, and
followed as long as the text repeats itself (prompt lookup decoding; Saxena 2023; LLMA, arXiv 2304.04487).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_RUNS = (9, 6, 4, 3, 2)
"""Lengths of the runs that are looked up, the longest first: one token alone says too little."""
LONGEST = 32
"""Matches are told apart up to this length."""
ALONE, AGREES, DIFFERS = range(3)
"""What the time before the last one says: there was none, it went on alike, or it went on otherwise."""


class NgramIndex:
    """All tokens of a conversation, and where their runs stood. ``tokens`` is to be read only."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._places: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._first: _Match | None = None
        self._second: _Match | None = None

    def become(self, tokens: Sequence[int]) -> None:
        """Hold ``tokens``: only what is new is added if they begin with what is held already."""
        if self.tokens != list(tokens[: len(self.tokens)]):
            self.__init__()  # type: ignore[misc]
        for token in tokens[len(self.tokens) :]:
            self.append(token)

    def append(self, token: int) -> None:
        """One token more."""
        self.tokens.append(token)
        followed = [match for match in (self._first, self._second) if self._goes_on(match)]
        self._first, self._second = (*followed, None, None)[:2]
        if not self._second:
            self._look_up()
        end = len(self.tokens)
        for run in _RUNS:
            if run <= end:
                key = tuple(self.tokens[-run:])
                self._places[key] = (*self._places.get(key, ())[-1:], end)

    def _goes_on(self, match: _Match | None) -> bool:
        """Whether the text went on as ``match`` said, which is one token further then."""
        if not match or self.tokens[match.place] != self.tokens[-1]:
            return False
        match.place, match.length = match.place + 1, match.length + 1
        return True

    def _look_up(self) -> None:
        end = len(self.tokens)
        for run in _RUNS:
            for place in reversed(self._places.get(tuple(self.tokens[-run:]), ()) if run <= end else ()):
                if not self._first:
                    self._first = self._match(place)
                elif place != self._first.place:
                    self._second = self._match(place)
                    if self._second.length > self._first.length:
                        self._first, self._second = self._second, self._first
                    return

    def _match(self, place: int) -> _Match:
        """How far back the text before ``place`` is that before the end."""
        tokens, end, length = self.tokens, len(self.tokens), 0
        while length < min(LONGEST, place) and tokens[place - length - 1] == tokens[end - length - 1]:
            length += 1
        return _Match(place, length)

    def continuation(self, most: int) -> Iterator[tuple[int, int, int]]:
        """Up to ``most`` tokens that may follow, each with the length of the match it is drawn from (the
        draft so far counts as said), and what the time before says (ALONE, AGREES, DIFFERS)."""
        if not self._first:
            return
        before = ALONE if not self._second else AGREES
        drafted: list[int] = []
        for ahead in range(most):
            token = self._at(self._first.place + ahead, drafted)
            if self._second and before == AGREES:
                alike = token == self._at(self._second.place + ahead, drafted)
                before = AGREES if alike else DIFFERS
            yield token, min(self._first.length + ahead, LONGEST), before
            if before == DIFFERS:
                before = ALONE
            drafted.append(token)

    def _at(self, place: int, drafted: Sequence[int]) -> int:
        """The token at ``place``. The draft counts as text: loops may be shorter than drafts are long."""
        end = len(self.tokens)
        return self.tokens[place] if place < end else drafted[place - end]


class _Match:
    """The text before ``place`` ended in the same ``length`` tokens as all of it does."""

    __slots__ = ("length", "place")

    def __init__(self, place: int, length: int) -> None:
        self.place, self.length = place, length
