"""Drafts from n-grams: the longest match in the text is found, and the tokens after it are drafted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pass_edge.drafting.ngrams import AGREES, ALONE, DIFFERS, OTHER, NgramContinuations, NgramIndex

words = st.lists(st.integers(0, 3), max_size=60)


def longest_match(tokens: Sequence[int]) -> int:
    """By brute force: how long the longest end of ``tokens`` is that stands in them before."""
    end = len(tokens)
    return max(
        (
            length
            for length in range(1, end)
            for start in range(end - length)
            if list(tokens[start : start + length]) == list(tokens[end - length :])
        ),
        default=0,
    )


def index_of(tokens: Sequence[int]) -> NgramIndex:
    index = NgramIndex()
    index.become(tokens)
    return index


def ways(quoting: NgramContinuations, depth: int) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """All that may follow, ``depth`` tokens deep: the draft, and of its last token what is told of it."""
    for token, length, others, behind in quoting if depth else ():
        yield (token,), length, others
        yield from (((token, *draft), *told) for draft, *told in ways(behind, depth - 1))  # type: ignore[misc]


def likeliest(index: NgramIndex, depth: int) -> list[int]:
    drafted, quoting = [], index.ahead()
    for _ in range(depth):
        token, _, _, quoting = next(iter(quoting))
        drafted.append(token)
    return drafted


@given(words)
def test_a_match_is_a_true_one_and_its_draft_what_followed(tokens: list[int]) -> None:
    found = list(ways(index_of(tokens).ahead(), 5))
    assert bool(found) == (longest_match(tokens) > 0)
    for draft, length, _ in found:
        said = [*tokens, *draft[:-1]]
        assert any(
            said[place] == draft[-1] and said[place - length : place] == said[len(said) - length :]
            for place in range(length, len(said))
        )


@given(words)
def test_what_a_rewound_index_says_is_what_a_new_one_says(tokens: list[int]) -> None:
    index = index_of([*tokens, 9, 9, 9])
    index.become(tokens)
    assert list(ways(index.ahead(), 6)) == list(ways(index_of(tokens).ahead(), 6))


@given(words)
def test_the_longest_match_comes_first(tokens: list[int]) -> None:
    lengths = [length for draft, length, _ in ways(index_of(tokens).ahead(), 1)]
    assert lengths == sorted(lengths, reverse=True)


def test_loops_shorter_than_the_draft_go_on() -> None:
    assert likeliest(index_of([7, 1, 2, 3, 1, 2, 3]), 7) == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([1, 2, 3, 1], {(2,): (1, ALONE), (2, 3): (2, ALONE)}),
        ([1, 2, 3, 0, 1, 2, 4, 0, 1, 2], {(4,): (3, DIFFERS), (3,): (2, OTHER), (3, 0): (3, ALONE)}),
        (
            [1, 2, 3, 0, 1, 2, 3, 9, 1, 2],
            {(3,): (2, AGREES), (3, 9): (3, DIFFERS), (3, 0): (3, OTHER), (3, 0, 1): (4, ALONE)},
        ),
    ],
)
def test_what_other_places_say_is_told(
    tokens: list[int], told: dict[tuple[int, ...], tuple[int, int]]
) -> None:
    found = {draft: (length, others) for draft, length, others in ways(index_of(tokens).ahead(), 3)}
    assert {draft: found[draft] for draft in told} == told
    assert {draft for draft in found if len(draft) == 1} == {draft for draft in told if len(draft) == 1}


def test_nothing_is_scanned_as_the_text_grows() -> None:
    """A step looks at a fixed number of tokens, whatever stands before."""

    class Counting(list):  # type: ignore[type-arg]
        reads = 0

        def __getitem__(self, item):  # type: ignore[no-untyped-def]
            Counting.reads += 1
            return super().__getitem__(item)

    for size in (500, 8000):
        index = NgramIndex()
        index.tokens = Counting()
        tokens = np.random.default_rng(0).integers(0, 50, size).tolist()
        for token in tokens[:-100]:
            index.append(token)
        Counting.reads = 0
        for token in tokens[-100:]:
            index.append(token)
            list(ways(index.ahead(), 8))
        assert Counting.reads < 100 * 100
