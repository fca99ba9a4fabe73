"""Draft tokens from the conversation itself: those that followed an earlier occurrence of the last n-gram.

This is prompt lookup decoding (Saxena 2023; LLMA, arXiv 2304.04487) with an index that grows with the text.
For n-grams of a few lengths, the index holds the positions where each ended last and the time before. Adding
a token costs a few dictionary entries and no scan of the text. A match is followed as long as the text
continues as it did at the earlier place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_NGRAM_LENGTHS = (4, 2, 1)
"""Lengths of the indexed n-grams, longest first."""
_MAX_MATCHES = 2
"""Matches followed at a time, and positions stored for each n-gram."""
MAX_MATCH_LENGTH = 32
"""Longer matches count as this long."""
SINGLE, UNANIMOUS, FIRST_CHOICE, OTHER_CHOICE = range(4)
"""How well the matches agree on a drafted token. SINGLE: there is only one match. UNANIMOUS: all matches
continue with this token. FIRST_CHOICE: they disagree, and this is the token of the longest match.
OTHER_CHOICE: they disagree, and this is the token of another match."""


class NgramIndex:
    """The tokens of a conversation, and the positions of their n-grams. Read ``tokens``, but do not change
    it."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._positions: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._matches: list[_Match] = []

    def reset_to(self, tokens: Sequence[int]) -> None:
        """Index exactly ``tokens``. If they begin with the indexed tokens, only the new ones are added."""
        if self.tokens != list(tokens[: len(self.tokens)]):
            self.tokens.clear()
            self._positions.clear()
            self._matches = []
        for token in tokens[len(self.tokens) :]:
            self.append(token)

    def append(self, token: int) -> None:
        """Add one token to the conversation."""
        self._matches = [match for match in self._matches if match.extend(self.tokens, token)]
        self.tokens.append(token)
        if len(self._matches) < _MAX_MATCHES:
            self._find_matches()
        end = len(self.tokens)
        for n in _NGRAM_LENGTHS:
            if n <= end:
                ngram = tuple(self.tokens[-n:])
                self._positions[ngram] = (*self._positions.get(ngram, ())[1 - _MAX_MATCHES :], end)

    def _find_matches(self) -> None:
        end, known = len(self.tokens), {match.position for match in self._matches}
        for n in _NGRAM_LENGTHS:
            for position in reversed(self._positions.get(tuple(self.tokens[-n:]), ()) if n <= end else ()):
                if position not in known:
                    known.add(position)
                    self._matches.append(_Match(position, self._match_length(position)))
            if len(self._matches) >= _MAX_MATCHES:
                break
        self._matches = sorted(self._matches, key=lambda match: -match.length)[:_MAX_MATCHES]

    def _match_length(self, position: int) -> int:
        """Return how many tokens before ``position`` equal the last tokens of the text."""
        tokens, end, length = self.tokens, len(self.tokens), 0
        limit = min(MAX_MATCH_LENGTH, position)
        while length < limit and tokens[position - length - 1] == tokens[end - length - 1]:
            length += 1
        return length

    def continuations(self) -> NgramContinuations:
        """Return the tokens that may follow the text."""
        return NgramContinuations(self.tokens, self._matches, [])


class NgramContinuations:
    """Tokens that may follow the text and a draft after it."""

    __slots__ = ("_draft", "_draft_length", "_matches", "_tokens")

    def __init__(self, tokens: Sequence[int], matches: Sequence[_Match], draft: list[int]) -> None:
        """``matches``: those of the text ``tokens`` that continue with ``draft``."""
        self._tokens, self._matches, self._draft = tokens, matches, draft
        self._draft_length = len(draft)

    def __iter__(self) -> Iterator[tuple[int, int, int, NgramContinuations]]:
        """Yield (token, match length, agreement, continuations after the token), most likely token first.

        The agreement is SINGLE, UNANIMOUS, FIRST_CHOICE or OTHER_CHOICE. Iterate only once: where the matches
        agree, the draft is extended in place.
        """
        by_token: dict[int, list[_Match]] = {}
        for match in self._matches:
            by_token.setdefault(self._token_at(match.position + self._draft_length), []).append(match)
        agree = len(by_token) == 1
        for rank, (token, matches) in enumerate(by_token.items()):
            length = min(matches[0].length + self._draft_length, MAX_MATCH_LENGTH)
            if agree:
                agreement = UNANIMOUS if len(matches) > 1 else SINGLE
                self._draft.append(token)  # no other branch shares this list
                yield token, length, agreement, NgramContinuations(self._tokens, matches, self._draft)
            else:
                agreement = OTHER_CHOICE if rank else FIRST_CHOICE
                extended = [*self._draft, token]
                yield token, length, agreement, NgramContinuations(self._tokens, matches, extended)

    def _token_at(self, position: int) -> int:
        """Return the token at ``position``, which lies in the draft where a loop is shorter than the
        draft."""
        end = len(self._tokens)
        return self._tokens[position] if position < end else self._draft[position - end]


class _Match:
    """An earlier occurrence: the ``length`` tokens before ``position`` are also the last of the text."""

    __slots__ = ("length", "position")

    def __init__(self, position: int, length: int) -> None:
        self.position, self.length = position, length

    def extend(self, tokens: Sequence[int], token: int) -> bool:
        """Extend the match by ``token``, the next one of the text so far ``tokens``, if the earlier
        occurrence continues with it too. Return whether it does."""
        if tokens[self.position] != token:
            return False
        self.position, self.length = self.position + 1, self.length + 1
        return True
