"""No tree of drafts is worth more than the selected one, compared with all others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pass_edge.drafting.ngrams import MAX_MATCH_LENGTH
from pass_edge.drafting.tree import NO_DRAFT, Draft, TreeLimits
from pass_edge.planning.acceptance import AcceptanceRates, ngram_bucket
from pass_edge.planning.grammar_guide import GrammarGuide
from pass_edge.planning.planner import Planner
from pass_edge.planning.tree_selection import DraftBuilder, Throughput, TreeSelector
from pass_edge.sampling.sampler import Sampler, Sampling
from tests.support.pass_costs import flat


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    builder, nodes = DraftBuilder(), [(0, 1.0)]
    for _ in range(draw(st.integers(0, 7))):
        parent, probability = draw(st.sampled_from(nodes))
        probability *= draw(st.floats(0.05, 1.0))
        nodes.append((builder.add(parent, draw(st.integers(0, 3)), probability, None), probability))
    return builder.build()


def brute_force(draft: Draft, seconds: np.ndarray, tokens_per_second: float) -> float:
    """Return the value of the best subtree that includes the root."""
    n, best = len(draft.tokens), 0.0
    for kept in itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(n + 1)):
        if all(draft.parents[i] == 0 or draft.parents[i] - 1 in kept for i in kept):
            expected = sum(draft.probabilities[i] for i in kept)
            best = max(best, expected - tokens_per_second * (seconds[len(kept)] - seconds[0]))
    return best


@given(drafts(), st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9), st.floats(0.0, 3.0))
def test_no_tree_is_worth_more_than_the_selected_one(
    draft: Draft, steps: list[float], throughput: float
) -> None:
    seconds = 1.0 + np.cumsum([0.0, *steps])
    selector = TreeSelector(seconds, Throughput(throughput, 1.0))
    assert selector.value(draft) == pytest.approx(brute_force(draft, seconds, selector.tokens_per_second))
    best = selector.select(draft, 0, 9)
    assert selector.value(draft) == pytest.approx(
        sum(best.probabilities) - selector.tokens_per_second * (seconds[len(best.tokens)] - seconds[0])
    )
    assert all(parent <= i for i, parent in enumerate(best.parents))


@given(drafts(), st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9), st.floats(0.0, 3.0))
def test_of_the_allowed_sizes_the_best_is_selected(
    draft: Draft, steps: list[float], throughput: float
) -> None:
    seconds = 1.0 + np.cumsum([0.0, *steps])
    selector = TreeSelector(seconds, Throughput(throughput, 1.0), tree_sizes=(1, 2, 4, 8))
    costs = selector.tokens_per_second * (seconds - seconds[0])
    counts = [n for n in (0, 1, 3, 7) if n <= len(draft.tokens)]
    values = [sum(draft.most_likely(n).probabilities) - costs[n] for n in counts]
    assert selector.value(draft) == pytest.approx(max(values))
    assert len(selector.select(draft, 0, 9).tokens) in (0, 1, 3, 7)
    for n, min_probability in enumerate(selector.min_probability):
        costs_per_node = [(costs[m] - costs[n]) / (m - n) for m in (1, 3, 7, 9) if m > n]
        assert min_probability == pytest.approx(min([1.0, *costs_per_node]))


class FakeContinuations:
    """Stands in for the n-gram index and its continuations: a tree of given matches."""

    def __init__(self, tree: tuple[tuple[int, Any], ...]) -> None:
        self._tree = tree

    def continuations(self) -> FakeContinuations:
        return self

    def __iter__(self) -> Iterator[tuple[int, int, int, FakeContinuations]]:
        for token, (evidence, children) in enumerate(self._tree):
            agreement, length = divmod(evidence, MAX_MATCH_LENGTH)
            yield token, length + 1, agreement, FakeContinuations(children)


trees = st.recursive(
    st.just(()),
    lambda children: st.lists(st.tuples(st.integers(0, 4 * MAX_MATCH_LENGTH - 1), children), max_size=3).map(
        tuple
    ),
    max_leaves=12,
)


@given(
    trees,
    st.lists(st.floats(0.01, 1.0), min_size=36, max_size=36),
    st.lists(st.floats(0.0, 0.5), min_size=7, max_size=7),
)
def test_the_search_ends_where_nothing_more_pays(
    tree: tuple[tuple[int, Any], ...], prior: list[float], steps: list[float]
) -> None:
    """It finds a draft as valuable as an exhaustive search does."""
    planner = Planner(flat())
    planner._index = FakeContinuations(tree)  # type: ignore[assignment]
    selector = TreeSelector(1.0 + np.cumsum([0.0, *steps]), Throughput(1.0, 1.0))
    rates, found, exhaustive = AcceptanceRates(prior), DraftBuilder(), DraftBuilder()
    guide = GrammarGuide(Sampler(Sampling(seed=0)), (), found, by_rejection=False)
    planner._draft_ngrams(found, selector, rates, guide, by_rejection=False)
    nodes = [(0, 1.0, FakeContinuations(tree))]
    for parent, parent_probability, continuations in nodes:
        for token, length, agreement, following in continuations:
            probability = parent_probability * rates.rate(ngram_bucket(length, agreement))
            node = exhaustive.add(parent, token, probability, None)
            nodes.append((node, probability, following))
    assert selector.value(found.build()) == pytest.approx(selector.value(exhaustive.build()))


@given(
    drafts(),
    st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9),
    st.floats(0.0, 2.0),
    st.integers(0, 9),
)
def test_a_draft_is_padded_where_rebuilding_the_graph_costs_more(
    draft: Draft, steps: list[float], rebuild_seconds: float, last: int
) -> None:
    costs = np.cumsum([0.0, *steps])
    selector = TreeSelector(1.0 + costs, Throughput(1.0, 1.0), rebuild_seconds=rebuild_seconds)
    selector.last_drafted = last
    values = [
        sum(draft.most_likely(n).probabilities) - costs[n] - rebuild_seconds * (n != last)
        for n in range(10)
        if n <= len(draft.tokens) or n == last
    ]
    best = selector.select(draft, 0, 9)
    assert selector.value(draft) == pytest.approx(max(values))
    assert len(best.tokens) == last or len(best.tokens) <= len(draft.tokens)
    assert best.tokens[len(draft.tokens) :] == (draft.tokens or (9,))[-1:] * (
        len(best.tokens) - len(draft.tokens)
    )
    assert best.below(9).layout(5).rows.positions.max() <= 5 + len(best.tokens)


@given(st.floats(0.01, 0.5), st.floats(0.01, 3.0), st.integers(1, 8))
def test_padding_ends_once_it_has_cost_as_much_as_rebuilding(row: float, rebuild: float, last: int) -> None:
    selector = TreeSelector(1.0 + row * np.arange(10), Throughput(1.0, 1.0), rebuild_seconds=rebuild)
    selector.last_drafted, spent, n_padded = last, 0.0, 0
    while (padded := selector.select(NO_DRAFT, 0, 9)).tokens:
        assert padded.n_padding == len(padded.tokens) == last
        selector.count_padding(padded)
        spent, n_padded = spent + last * row, n_padded + 1
        assert n_padded <= 2 + rebuild / (last * row)
    assert spent < rebuild * 1.001 + last * row, (
        "twice as much in all as with the best choice known beforehand"
    )
    assert spent > 0 or last * row > 0.999 * rebuild
    selector.count_padding(padded)
    assert selector.select(NO_DRAFT, 0, 9).tokens or spent == 0, "a pass without padding ends the count"


@given(drafts(), st.lists(st.integers(0, 3), max_size=8), st.integers(0, 9))
def test_the_outcome_is_what_was_accepted_less_its_costs(draft: Draft, said: list[int], n_kept: int) -> None:
    seconds, limits = 1.0 + 0.1 * np.arange(10), TreeLimits(n_kept=n_kept)
    selector = TreeSelector(
        seconds, Throughput(1.0, 1.0), rebuild_seconds=0.05, limits=limits, replay_seconds=seconds
    )
    selector.last_drafted = 2
    tree, n = draft.below(9), len(draft.tokens)
    paths = {path_to(draft, node) for node in range(1, n + 1)}
    n_accepted = max((k for k in range(len(said) + 1) if tuple(said[:k]) in paths), default=0)
    assert tree.n_accepted(said) == n_accepted
    replay = (1 + 0.1 * n_accepted) * (n - n_accepted > n_kept)
    assert selector.outcome(tree, n_accepted) == pytest.approx(
        n_accepted - 0.1 * n - 0.05 * (n != 2) - replay
    )


def path_to(draft: Draft, node: int) -> tuple[int, ...]:
    """The tokens from below the root down to ``node``."""
    return (*path_to(draft, draft.parents[node - 1]), draft.tokens[node - 1]) if node else ()


@given(drafts())
def test_a_part_of_a_draft_keeps_its_paths(draft: Draft) -> None:
    def paths(part: Draft) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = [()]
        for token, parent in zip(part.tokens, part.parents, strict=True):
            found.append((*found[parent], token))
        return found[1:]

    for count in range(len(draft.tokens) + 1):
        part = draft.most_likely(count)
        assert len(part.tokens) == count
        assert set(paths(part)) <= set(paths(draft))
        assert sorted(part.probabilities) == sorted(draft.probabilities)[len(draft.tokens) - count :]


@given(
    drafts(),
    st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9),
    st.floats(0.0, 3.0),
    st.integers(0, 9),
    st.integers(0, 9),
    st.floats(0.0, 2.0),
)
def test_no_chain_is_worth_more_than_the_selected_one(
    draft: Draft, steps: list[float], throughput: float, n_kept: int, last: int, rebuild_seconds: float
) -> None:
    """Where only chains can be verified, and accepted tokens are decoded again after too many rejections."""
    seconds = 1.0 + np.cumsum([0.0, *steps])
    limits = TreeLimits(chains_only=True, n_kept=n_kept)
    selector = TreeSelector(
        seconds, Throughput(throughput, 1.0), 1, (), rebuild_seconds, limits, replay_seconds=seconds
    )
    selector.last_drafted, per_second = last, selector.tokens_per_second

    def value(chain: list[float]) -> float:
        """Of drafting a chain of these path probabilities, counted over the possible ends."""
        rebuild = rebuild_seconds * (len(chain) != last)
        total = -per_second * (seconds[len(chain)] - seconds[0] + rebuild)
        for n_accepted, (reached, beyond) in enumerate(zip([1.0, *chain], [*chain, 0.0], strict=True)):
            is_replayed = len(chain) - n_accepted > n_kept
            replay = per_second * seconds[n_accepted] if is_replayed else 0.0
            total += (reached - beyond) * (n_accepted - replay)
        return total

    chains: list[list[float]] = [[]]
    for parent, probability in zip(draft.parents, draft.probabilities, strict=True):
        chains.append([*chains[parent], probability])
    if rebuild_seconds:
        leaves = [chain for node, chain in enumerate(chains) if node not in draft.parents]
        chains += [[*leaf, *[0.0] * (last - len(leaf))] for leaf in leaves if len(leaf) < last]
    assert selector.value(draft) == pytest.approx(max(map(value, chains)))
    best = selector.select(draft, 0, 9)
    assert best.parents == tuple(range(len(best.parents)))
    likely = best.probabilities[: len(best.tokens) - best.n_padding]
    assert value([*likely, *[0.0] * best.n_padding]) == pytest.approx(selector.value(draft))
