"""The selected tree is the most valuable one, compared to every other tree of the same drafts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_edge.drafting.ngrams import LONGEST
from pass_edge.drafting.tree import Draft
from pass_edge.planning.acceptance import AcceptanceRates, ngram_bucket
from pass_edge.planning.draft_statistics import AcceptanceEstimates
from pass_edge.planning.planner import Planner
from pass_edge.planning.tree_selection import DraftBuilder, Throughput, TreeSelector
from tests.support.pass_costs import flat


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    branches, nodes = DraftBuilder(), [(0, 1.0)]
    for _ in range(draw(st.integers(0, 7))):
        parent, chance = draw(st.sampled_from(nodes))
        chance *= draw(st.floats(0.05, 1.0))
        nodes.append((branches.add(parent, draw(st.integers(0, 3)), chance, None), chance))
    return branches.draft()


def brute_force(draft: Draft, seconds: np.ndarray, pace: float) -> float:
    """The best worth of any subtree with the root."""
    n, best = len(draft.tokens), 0.0
    for kept in itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(n + 1)):
        if all(draft.parents[i] == 0 or draft.parents[i] - 1 in kept for i in kept):
            gained = sum(draft.chances[i] for i in kept)
            best = max(best, gained - pace * (seconds[len(kept)] - seconds[0]))
    return best


@settings(deadline=None)
@given(drafts(), st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9), st.floats(0.0, 3.0))
def test_no_tree_is_worth_more_than_the_planned_one(draft: Draft, steps: list[float], pace: float) -> None:
    seconds = 1.0 + np.cumsum([0.0, *steps])
    plan = TreeSelector(seconds, Throughput(pace, 1.0))
    assert plan.worth(draft) == pytest.approx(brute_force(draft, seconds, plan.pace))
    best = plan.best(draft, 0, 9)
    assert plan.worth(draft) == pytest.approx(
        sum(best.chances) - plan.pace * (seconds[len(best.tokens)] - seconds[0])
    )
    assert all(parent <= i for i, parent in enumerate(best.parents))


@settings(deadline=None)
@given(drafts(), st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9), st.floats(0.0, 3.0))
def test_of_few_sizes_the_best_is_planned(draft: Draft, steps: list[float], pace: float) -> None:
    seconds = 1.0 + np.cumsum([0.0, *steps])
    plan = TreeSelector(seconds, Throughput(pace, 1.0), sizes=(1, 2, 4, 8))
    price = plan.pace * (seconds - seconds[0])
    worth = [sum(draft.best(n).chances) - price[n] for n in (0, 1, 3, 7) if n <= len(draft.tokens)]
    assert plan.worth(draft) == pytest.approx(max(worth))
    assert len(plan.best(draft, 0, 9).tokens) in (0, 1, 3, 7)
    for n, least in enumerate(plan.least):
        more = [(price[m] - price[n]) / (m - n) for m in (1, 3, 7, 9) if m > n]
        assert least == pytest.approx(min([1.0, *more]))


class Told:
    """In the place of the n-gram index, and of what may follow: a tree of kinds of drafts."""

    def __init__(self, tree: tuple[tuple[int, Any], ...]) -> None:
        self._tree = tree

    def ahead(self) -> Told:
        return self

    def __iter__(self) -> Iterator[tuple[int, int, int, Told]]:
        for token, (kind, below) in enumerate(self._tree):
            yield token, kind % LONGEST + 1, kind // LONGEST, Told(below)


trees = st.recursive(
    st.just(()),
    lambda below: st.lists(st.tuples(st.integers(0, 4 * LONGEST - 1), below), max_size=3).map(tuple),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    trees,
    st.lists(st.floats(0.01, 1.0), min_size=36, max_size=36),
    st.lists(st.floats(0.0, 0.5), min_size=7, max_size=7),
)
def test_nothing_that_pays_is_left_unsaid(
    tree: tuple[tuple[int, Any], ...], begin: list[float], steps: list[float]
) -> None:
    """The search stops where nothing pays any more, and finds what an exhaustive one does."""
    planner = Planner(flat())
    planner._index = Told(tree)  # type: ignore[assignment]
    plan = TreeSelector(1.0 + np.cumsum([0.0, *steps]), Throughput(1.0, 1.0))
    worth, found, every = AcceptanceEstimates(), DraftBuilder(), DraftBuilder()
    worth.ngrams = AcceptanceRates(begin)
    planner._draft_ngrams(found, plan, worth, "sampling")
    waiting = [(0, 1.0, Told(tree))]
    for above, chance, told in waiting:
        for token, length, others, behind in told:
            likely = chance * worth.ngrams.of(ngram_bucket(length, others))
            waiting.append((every.add(above, token, likely, None), likely, behind))
    assert plan.worth(found.draft()) == pytest.approx(plan.worth(every.draft()))


@settings(deadline=None)
@given(
    drafts(),
    st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9),
    st.floats(0.0, 2.0),
    st.integers(0, 9),
)
def test_as_many_as_last_time_are_drafted_where_another_number_costs_more(
    draft: Draft, steps: list[float], switching: float, last: int
) -> None:
    prices = np.cumsum([0.0, *steps])
    plan = TreeSelector(1.0 + prices, Throughput(1.0, 1.0), switching=switching)
    plan.drafted = last
    worth = [
        sum(draft.best(n).chances) - prices[n] - switching * (n != last)
        for n in range(10)
        if n <= len(draft.tokens) or n == last
    ]
    best = plan.best(draft, 0, 9)
    assert plan.worth(draft) == pytest.approx(max(worth))
    assert len(best.tokens) == last or len(best.tokens) <= len(draft.tokens)
    assert best.tokens[len(draft.tokens) :] == (draft.tokens or (9,))[-1:] * (
        len(best.tokens) - len(draft.tokens)
    )
    assert best.below(9).layout(5).rows.positions.max() <= 5 + len(best.tokens)


@given(drafts())
def test_a_part_of_a_draft_hangs_as_it_did(draft: Draft) -> None:
    def paths(some: Draft) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = [()]
        for token, parent in zip(some.tokens, some.parents, strict=True):
            found.append((*found[parent], token))
        return found[1:]

    for count in range(len(draft.tokens) + 1):
        part = draft.best(count)
        assert len(part.tokens) == count
        assert set(paths(part)) <= set(paths(draft))
        assert sorted(part.chances, reverse=True) == sorted(draft.chances, reverse=True)[:count]
