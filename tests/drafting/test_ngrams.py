"""n-grams: repetitions in a text are found, and the tokens that followed are drafted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pass_edge.drafting.ngrams import (
    FIRST_CHOICE,
    OTHER_CHOICE,
    SINGLE,
    UNANIMOUS,
    NgramContinuations,
    NgramIndex,
)

words = st.lists(st.integers(0, 3), max_size=60)


def longest_match(tokens: Sequence[int]) -> int:
    """Return by brute force how many of the last ``tokens`` also occur earlier, at most."""
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
    index.reset_to(tokens)
    return index


def all_drafts(continuations: NgramContinuations, depth: int) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield all drafts of up to ``depth`` tokens, each with the match length and agreement of its last."""
    for token, length, agreement, following in continuations if depth else ():
        yield (token,), length, agreement
        for draft, last_length, last_agreement in all_drafts(following, depth - 1):
            yield (token, *draft), last_length, last_agreement


def most_likely(index: NgramIndex, depth: int) -> list[int]:
    drafted, continuations = [], index.continuations()
    for _ in range(depth):
        token, _, _, continuations = next(iter(continuations))
        drafted.append(token)
    return drafted


@given(words)
def test_a_draft_is_what_followed_an_equal_run_of_tokens(tokens: list[int]) -> None:
    drafts = list(all_drafts(index_of(tokens).continuations(), 5))
    assert bool(drafts) == (longest_match(tokens) > 0)
    for draft, length, _ in drafts:
        text = [*tokens, *draft[:-1]]
        assert any(
            text[position] == draft[-1] and text[position - length : position] == text[len(text) - length :]
            for position in range(length, len(text))
        )


@given(words)
def test_a_reset_index_drafts_as_a_new_one(tokens: list[int]) -> None:
    index = index_of([*tokens, 9, 9, 9])
    index.reset_to(tokens)
    new_index = index_of(tokens)
    assert list(all_drafts(index.continuations(), 6)) == list(all_drafts(new_index.continuations(), 6))


@given(words)
def test_the_longest_match_comes_first(tokens: list[int]) -> None:
    lengths = [length for _, length, _ in all_drafts(index_of(tokens).continuations(), 1)]
    assert lengths == sorted(lengths, reverse=True)


def test_a_loop_shorter_than_the_draft_continues() -> None:
    assert most_likely(index_of([7, 1, 2, 3, 1, 2, 3]), 7) == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 1], {(2,): (1, SINGLE), (2, 3): (2, SINGLE)}),
        (
            [1, 2, 3, 0, 1, 2, 4, 0, 1, 2],
            {(4,): (3, FIRST_CHOICE), (3,): (2, OTHER_CHOICE), (3, 0): (3, SINGLE)},
        ),
        (
            [1, 2, 3, 0, 1, 2, 3, 9, 1, 2],
            {
                (3,): (2, UNANIMOUS),
                (3, 9): (3, FIRST_CHOICE),
                (3, 0): (3, OTHER_CHOICE),
                (3, 0, 1): (4, SINGLE),
            },
        ),
    ],
)
def test_the_agreement_of_matches(
    tokens: list[int], expected: dict[tuple[int, ...], tuple[int, int]]
) -> None:
    drafts = all_drafts(index_of(tokens).continuations(), 3)
    found = {draft: (length, agreement) for draft, length, agreement in drafts}
    assert {draft: found[draft] for draft in expected} == expected
    assert {draft for draft in found if len(draft) == 1} == {draft for draft in expected if len(draft) == 1}


def test_a_step_reads_a_bounded_number_of_tokens() -> None:
    """However long the text is."""

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
            list(all_drafts(index.continuations(), 8))
        assert Counting.reads < 100 * 100
