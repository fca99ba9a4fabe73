"""The planner finds repetitions, drafts what pays, and does not change the text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_edge import Engine, Sampling, Settings
from pass_edge.drafting.drafter import DraftToken, PassOutput
from pass_edge.drafting.ngrams import (
    FIRST_CHOICE,
    MAX_MATCH_LENGTH,
    OTHER_CHOICE,
    SINGLE,
    UNANIMOUS,
    NgramContinuations,
    NgramIndex,
)
from pass_edge.drafting.schedules import StepResult
from pass_edge.drafting.tree import Draft
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.devices import default_threads
from pass_edge.planning.acceptance import AcceptanceRates, head_bucket, head_rates, ngram_bucket
from pass_edge.planning.cost_model import StepCosts, step_costs
from pass_edge.planning.draft_statistics import DraftStatistics, TrialBackoff
from pass_edge.planning.planner import Planner, may_look_ahead
from pass_edge.planning.tree_selection import DraftBuilder, Throughput, TreeSelector
from pass_edge.sampling.sampler import Sampler
from tests.drafting.test_drafter import lookahead_for, random_head


def flat(*_: object) -> StepCosts:
    """Costs of a machine where drafting is nearly free."""
    return StepCosts(np.array([1.0, 32.0]), np.array([0.010, 0.011]), np.zeros(2))


def steep(*_: object) -> StepCosts:
    """Costs of a machine where every row costs as much as the first."""
    return StepCosts(np.array([1.0, 32.0]), np.array([0.010, 0.320]), np.zeros(2))


words = st.lists(st.integers(0, 3), max_size=60)


# -- n-grams --------------------------------------------------------------------------------------


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


# -- acceptance rates -----------------------------------------------------------------------------


def test_rates_approach_what_is_observed() -> None:
    rng, rates = np.random.default_rng(0), AcceptanceRates([0.5, 0.5])
    for _ in range(400):
        rates.observe(0, bool(rng.random() < 0.9))
    assert rates.rate(0) == pytest.approx(0.85, abs=0.07)
    assert rates.rate(1) == pytest.approx(0.425)


def test_all_buckets_of_matches_and_heads_are_reached() -> None:
    lengths = range(1, MAX_MATCH_LENGTH + 1)
    buckets = {ngram_bucket(length, agreement) for length in lengths for agreement in range(4)}
    assert buckets == set(range(36))
    assert head_bucket(0, 0.0) == 0
    buckets = {
        head_bucket(depth, k / 100, alternative=alternative)
        for depth in range(4)
        for k in range(100)
        for alternative in (False, True)
    }
    assert buckets == set(range(len(head_rates()._rates)))
    assert head_bucket(0, 1.0) == head_bucket(0, 0.97) != head_bucket(1, 1.0)
    assert head_bucket(9, 1.0) == head_bucket(3, 1.0)


# -- the best tree --------------------------------------------------------------------------------


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


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
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
    planner._draft_ngrams(found, selector, rates, "sampling")
    nodes = [(0, 1.0, FakeContinuations(tree))]
    for parent, parent_probability, continuations in nodes:
        for token, length, agreement, following in continuations:
            probability = parent_probability * rates.rate(ngram_bucket(length, agreement))
            node = exhaustive.add(parent, token, probability, None)
            nodes.append((node, probability, following))
    assert selector.value(found.build()) == pytest.approx(selector.value(exhaustive.build()))


@settings(deadline=None)
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


def test_a_source_that_does_not_pay_is_tried_less_and_less() -> None:
    trials, tried = TrialBackoff(), []
    for step in range(1000):
        if trials.is_due():
            tried.append(step)
            trials.record(-1.0)
    assert len(tried) < 12
    for _ in range(600):
        if trials.is_due():
            trials.record(5.0)
    assert all(trials.is_due() for _ in range(5))


class FakeDrafter:
    """Drafts the token 3 with certainty, and counts how often it is asked."""

    heads, n_asked = object(), 0

    def draft_tokens(self, *_: object) -> Iterator[DraftToken]:
        self.n_asked += 1
        yield DraftToken(3, 1.0, None)


def run_passes(planner: Planner, n_passes: int, n_conversations: int, next_token: int) -> None:
    """Run passes that ``n_conversations`` share, the others with one row each, and that all give
    ``next_token``."""
    output = PassOutput(np.zeros((0, 8), np.float32), np.zeros(8, np.float32))
    sampler = Sampler(Sampling(temperature=0))
    others = n_conversations - 1
    for depth in range(n_passes):
        tree = planner.tree(3)
        rows = len(tree.tokens) + others
        seconds = float(planner._costs.at(0)[rows - 1])
        new = (next_token,)
        planner.learn(
            StepResult(
                tree, new, output, sampler, [], "sampling", depth, rows, seconds, others, n_conversations
            )
        )


def test_heads_are_not_asked_in_shared_passes_where_they_cannot_pay() -> None:
    # a second row is cheap, and a fifth costs nearly as much as four together
    costs = StepCosts(np.array([1.0, 3.0, 4.0, 32.0]), np.array([1.0, 1.2, 2.0, 50.0]), np.zeros(4))
    drafter = FakeDrafter()
    planner = Planner(costs, drafter, use_ngrams=False)  # type: ignore[arg-type]
    run_passes(planner, 20, 1, next_token=3)
    assert drafter.n_asked == 20
    run_passes(planner, 200, 4, next_token=3)
    assert drafter.n_asked == 20
    run_passes(planner, 20, 1, next_token=3)
    assert drafter.n_asked == 40


def test_an_alternative_is_drafted_and_its_rate_learned() -> None:
    class Doubting(FakeDrafter):
        def draft_tokens(self, *_: object) -> Iterator[DraftToken]:
            yield DraftToken(3, 0.5, None, ((5, 0.3), (6, 0.01)))

    planner = Planner(flat(), Doubting(), use_ngrams=False)  # type: ignore[arg-type]
    hidden = planner._statistics.estimates(0).hidden
    first, second = head_bucket(0, 0.5), head_bucket(0, 0.3, alternative=True)
    before = hidden.rate(first), hidden.rate(second)
    run_passes(planner, 8, 1, next_token=5)
    assert planner.tree(5).children(0) == [1, 2]
    assert planner.tree(5).tokens == (5, 3, 5), "the third token is hardly ever right"
    assert hidden.rate(first) < before[0]
    assert hidden.rate(second) > before[1]


def test_conversations_share_what_they_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("pass_edge.planning.planner.time.perf_counter", lambda: next(clock) / 100)
    costs = StepCosts(np.array([1.0, 2.0]), np.array([1.0, 1.5]), np.zeros(2))
    drafter, shared = FakeDrafter(), DraftStatistics()
    planners = [
        Planner(costs, drafter, statistics=shared, use_ngrams=False)  # type: ignore[arg-type]
        for _ in range(2)
    ]
    run_passes(planners[0], 200, 1, next_token=7)  # all drafts are wrong
    n_asked, rate = drafter.n_asked, shared.estimates(0).hidden.rate(head_bucket(0, 1.0))
    run_passes(planners[1], 20, 1, next_token=7)
    assert 0 < drafter.n_asked - n_asked <= 2, "the first conversation has learned that drafts are wrong"
    run_passes(planners[1], 500, 1, next_token=3)
    new_rate = shared.estimates(0.04).hidden.rate(head_bucket(0, 1.0))
    assert new_rate > rate, "temperatures are rounded to a tenth"


def test_heads_are_asked_in_shared_passes_where_they_may_pay() -> None:
    drafter = FakeDrafter()
    planner = Planner(flat(), drafter, use_ngrams=False)  # type: ignore[arg-type]
    run_passes(planner, 20, 4, next_token=3)
    assert drafter.n_asked == 20


@pytest.mark.parametrize(("step_seconds", "n_drafted"), [(0.0001, 4), (0.005, 1)])
def test_a_head_drafts_another_token_only_if_that_is_worth_its_time(
    step_seconds: float, n_drafted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counts = [0.0], []

    class SlowDrafter:
        heads = object()

        def draft_tokens(self, *_: object) -> Iterator[DraftToken]:
            counts.append(0)
            for _ in range(4):
                clock[0] += step_seconds
                counts[-1] += 1
                yield DraftToken(3, 1.0, None)

    monkeypatch.setattr("pass_edge.planning.planner.time.perf_counter", lambda: clock[0])
    run_passes(Planner(flat(), SlowDrafter(), use_ngrams=False), 5, 1, next_token=3)  # type: ignore[arg-type]
    assert counts == [n_drafted] * 5


# -- costs ----------------------------------------------------------------------------------------


def test_costs_follow_the_machine() -> None:
    costs = StepCosts(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0, 0.01]))
    assert costs.at(100).tolist() == [1.0, 2.0, 3.5, 5.0]
    for _ in range(300):
        costs.observe(1, 100, 2.0)
    assert costs.at(0)[0] == pytest.approx(2.0, rel=0.01)
    assert 2.0 < costs.at(0)[1] < 4.1, "other widths are corrected half as much"
    costs.observe(99, 0, 1.0)  # a wider step than measured is ignored


def test_rebuilding_the_graph_does_not_change_the_cost_of_a_width() -> None:
    costs = StepCosts(np.array([1.0, 2.0]), np.array([1.0, 1.5]), np.zeros(2), rebuild_seconds=0.5)
    for rows, seconds in ((2, 2.0), (2, 1.5), (1, 1.5), (1, 1.0)):
        costs.observe(rows, 0, seconds)
    assert costs.at(0).tolist() == [1.0, 1.5]
    assert costs.rebuild_seconds == 0.5


def test_measured_costs_are_stored_and_measured_again_if_damaged(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "pass_edge.planning.cost_model._pass_time", lambda context, depth, width: width + depth / 1000
    )
    notes: list[str] = []

    def costs() -> StepCosts:
        with Engine(tiny_path, note=notes.append) as engine:
            return step_costs(engine.session._context, engine.settings, 9, notes.append)

    first = costs()
    measured = sum("steps cost" in note for note in notes)
    assert (costs().at(5) == first.at(5)).all()
    assert sum("steps cost" in note for note in notes) == measured
    for nonsense in (
        "no json",
        json.dumps([[1], [-1], [0], 0, None]),
        json.dumps([[1], [1], [0], -1, None]),
        json.dumps({"a": 1}),
        "[[1], [1], [0], 0, [2]]",
    ):
        for file in tmp_path.glob("costs-*.json"):
            file.write_text(nonsense)
        assert (costs().at(5) > 0).all()
        assert sum("steps cost" in note for note in notes) > measured
        measured = sum("steps cost" in note for note in notes)


def test_costs_of_a_busy_machine_are_measured_again_when_it_is_idle(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr("pass_edge.planning.cost_model.default_threads", lambda: 2)
    threads, notes = [2], []
    set_threads = Context.set_threads

    def spy(self: Context, single: int, batched: int) -> None:
        threads[0] = single
        set_threads(self, single, batched)

    monkeypatch.setattr(Context, "set_threads", spy)

    def costs(seconds: dict[int, float]) -> StepCosts:
        """Return the engine's costs if passes take ``seconds``, by the number of threads."""
        monkeypatch.setattr(
            "pass_edge.planning.cost_model._pass_time",
            lambda context, depth, width: width * seconds[threads[0]],
        )
        notes.clear()
        with Engine(tiny_path, note=notes.append) as engine:
            assert engine.costs is not None
            assert threads[0] == (engine.costs.threads or (0,))[0]
            return engine.costs

    def was_measured() -> bool:
        return any("steps cost" in note for note in notes)

    assert costs({1: 1.0, 2: 3.0}).threads == (1, 1)  # one core is busy
    assert was_measured()
    assert costs({1: 1.0, 2: 3.0}).threads == (1, 1)
    assert not was_measured()
    assert costs({1: 1.0, 2: 0.9}).threads == (2, 2)  # both are idle
    assert was_measured()
    assert costs({1: 1.8, 2: 1.6}).at(0)[0] == pytest.approx(0.9), "a slow moment changes nothing"
    assert not was_measured()
    assert costs({1: 0.5, 2: 0.5}).at(0)[0] == pytest.approx(0.5)
    assert was_measured()


def test_threads_do_not_change_the_bits(tiny_path: Path) -> None:
    """So the fastest number can be chosen, for passes over one row and over several separately."""
    logits = []
    with Engine(tiny_path, lookahead=None) as engine:
        context = engine.session._context
        for threads in ((1, 2), (2, 1), (2, 2)):
            context.clear()
            context.set_threads(*threads)
            context.decode_tokens(rows_of_sequence(0, 30), np.arange(30, dtype=np.int32) % 12)
            for count in (1, 7):
                rows = rows_of_sequence(30, count, outputs=count)
                context.decode_tokens(rows, np.arange(count, dtype=np.int32))
                logits.append(context.logits(count).copy())
                context.remove(0, 30)
    for i in range(2, 6):
        assert (logits[i] == logits[i % 2]).all()
    assert engine.costs is not None
    assert engine.costs.threads is not None
    assert all(1 <= count <= default_threads() for count in engine.costs.threads)


def test_lookahead_tokens_are_not_tried_where_they_cannot_pay() -> None:
    assert may_look_ahead(flat())
    assert not may_look_ahead(steep())
    medium = StepCosts(np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.1, 1.4]), np.zeros(3))
    assert may_look_ahead(medium)
    assert not may_look_ahead(medium, has_hidden_head=True), "a head drafts as much in less time"
    assert may_look_ahead(flat(), has_hidden_head=True)


# -- the schedule in the engine -------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(temperature=1.0, seed=5)])
@pytest.mark.parametrize("source", ["n-grams", "hidden head", "lookahead", "everything"])
def test_the_text_is_that_of_plain_decoding(
    source: str, sampling: Sampling, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pass_edge.engine.step_costs", flat)
    lookahead = None
    if source != "n-grams":
        lookahead = lookahead_for(
            tiny_path,
            rows=source != "hidden head",
            head=random_head(3) if source == "everything" else None,
            hidden_head=random_head(4) if source != "lookahead" else None,
        )
    with (
        Engine(tiny_path, settings=Settings(schedule="plain")) as plain,
        Engine(tiny_path, lookahead=lookahead) as engine,
    ):
        for prompt in ([1, 2, 3], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]):
            drafted = engine.stream(prompt, sampling=sampling, max_tokens=150).run()
            assert drafted.ids == plain.stream(prompt, sampling=sampling, max_tokens=150).run().ids
            assert sum(drafted.stats.accepted) > 0 or sampling.temperature


def test_drafts_are_accepted_by_the_rejection_rule(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine.step_costs", flat)
    lookahead = lookahead_for(tiny_path, hidden_head=random_head(4))
    with Engine(tiny_path, lookahead=lookahead, settings=Settings(verify="rejection")) as engine:
        done = engine.stream([1, 2, 3], sampling=Sampling(temperature=0.7, seed=1), max_tokens=200).run()
        assert sum(done.stats.accepted) > 0


def test_nothing_is_drafted_where_it_cannot_pay(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine.step_costs", steep)
    monkeypatch.setattr(StepCosts, "observe", lambda *_: None)
    with Engine(tiny_path) as engine:
        done = engine.stream([1, 2, 1, 2, 1, 2], sampling=Sampling(temperature=0), max_tokens=60).run()
        assert done.stats.passes == len(done.ids)


def test_repeating_text_gets_long_drafts(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine.step_costs", flat)
    bias = Sampling(temperature=0, logit_bias={5: 1000.0})
    with Engine(tiny_path) as engine:
        done = engine.stream([1, 2, 3], sampling=bias, max_tokens=200).run()
        assert done.ids == [5] * 200
        assert done.stats.tokens_per_pass > 5


def test_a_new_conversation_starts_without_a_draft() -> None:
    planner = Planner(flat())
    sampler = Sampler(Sampling(temperature=0))
    for conversation in ([1, 2, 3, 1, 2], [4, 5]):
        planner.begin(conversation)
        root, depth = conversation[-1], len(conversation) - 1
        tree = planner.tree(root)
        assert tree.tokens == (root,)
        output = PassOutput(np.zeros((0, 8), np.float32))
        planner.learn(StepResult(tree, (3,), output, sampler, [], "sampling", depth, 1, 0.01))
        assert planner.tree(3).tokens[:3] == ((3, 1, 2) if len(conversation) > 2 else (3,))


@pytest.mark.parametrize(("rule", "children"), [("sampling", (4, 3)), ("rejection", (4,))])
def test_both_continuations_are_drafted_where_rows_are_cheap(rule: str, children: tuple[int, ...]) -> None:
    planner, conversation = Planner(flat()), [1, 2, 3, 0, 1, 2, 4, 0, 1]
    planner.begin(conversation)
    output, sampler = PassOutput(np.zeros((0, 8), np.float32)), Sampler(Sampling(temperature=0))
    planner.learn(StepResult(planner.tree(1), (2,), output, sampler, [], rule, 8, 1, 0.01))
    tree = planner.tree(2)
    assert tuple(tree.tokens[node] for node in tree.children(0)) == children


def test_a_prediction_is_compared_only_once() -> None:
    """Where no head drafts in later passes, it is not compared with their tokens."""
    planner = Planner(flat(), use_ngrams=False)
    planner.begin([1, 2])
    sampler, output = Sampler(Sampling(temperature=0)), PassOutput(np.zeros((0, 8), np.float32))
    rates, bucket = planner._statistics.estimates(0).hidden, head_bucket(0, 1.0)
    before = rates.rate(bucket)
    planner._predictions = [(rates, {3: bucket})]
    for depth, new in ((1, 3), (2, 4), (3, 5)):
        tree = planner.tree(2)
        planner.learn(StepResult(tree, (new,), output, sampler, [], "sampling", depth, 1, 0.01))
        assert rates.rate(bucket) > before
