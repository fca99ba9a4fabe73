"""The planner: what repeats is found, what pays is drafted, and nothing of it shows in the text."""

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
from pass_edge.drafting.ngrams import AGREES, ALONE, DIFFERS, LONGEST, OTHER, NgramContinuations, NgramIndex
from pass_edge.drafting.schedules import StepResult
from pass_edge.drafting.tree import Draft
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.devices import default_threads
from pass_edge.planning.acceptance import AcceptanceRates, head_bucket, head_rates, ngram_bucket
from pass_edge.planning.cost_model import StepCosts, step_costs
from pass_edge.planning.draft_statistics import AcceptanceEstimates, DraftStatistics, TrialBackoff
from pass_edge.planning.planner import Planner, may_look_ahead
from pass_edge.planning.tree_selection import DraftBuilder, Throughput, TreeSelector
from pass_edge.sampling.sampler import Sampler
from tests.drafting.test_drafter import lookahead_for, random_head


def flat(*_: object) -> StepCosts:
    """As if drafting were nearly free."""
    return StepCosts(np.array([1.0, 32.0]), np.array([0.010, 0.011]), np.zeros(2))


def steep(*_: object) -> StepCosts:
    """As if every row cost as much as the first."""
    return StepCosts(np.array([1.0, 32.0]), np.array([0.010, 0.320]), np.zeros(2))


words = st.lists(st.integers(0, 3), max_size=60)


# -- n-grams --------------------------------------------------------------------------------------


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


# -- chances --------------------------------------------------------------------------------------


def test_chances_come_to_what_happens() -> None:
    rng, chances = np.random.default_rng(0), AcceptanceRates([0.5, 0.5])
    for _ in range(400):
        chances.observe(0, bool(rng.random() < 0.9))
    assert chances.of(0) == pytest.approx(0.85, abs=0.07)
    assert chances.of(1) == pytest.approx(0.425)


def test_every_match_and_every_head_has_a_kind() -> None:
    kinds = {ngram_bucket(length, others) for length in range(1, LONGEST + 1) for others in range(4)}
    assert kinds == set(range(36))
    assert head_bucket(0, 0.0) == 0
    heads = {
        head_bucket(depth, k / 100, other=other) for depth in range(4) for k in range(100) for other in (0, 1)
    }
    assert heads == set(range(len(head_rates()._all)))
    assert head_bucket(0, 1.0) == head_bucket(0, 0.97) != head_bucket(1, 1.0)
    assert head_bucket(9, 1.0) == head_bucket(3, 1.0)


# -- the best tree --------------------------------------------------------------------------------


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


def test_what_does_not_pay_is_tried_ever_more_rarely() -> None:
    gate, tried = TrialBackoff(), []
    for step in range(1000):
        if gate.opens():
            tried.append(step)
            gate.settle(-1.0)
    assert len(tried) < 12
    for _ in range(600):
        if gate.opens():
            gate.settle(5.0)
    assert all(gate.opens() for _ in range(5))


class Oracle:
    """Drafts what comes, and counts how often it is asked."""

    heads, asked = object(), 0

    def ahead(self, *_: object) -> Iterator[DraftToken]:
        self.asked += 1
        yield DraftToken(3, 1.0, None)


def company(planner: Planner, passes: int, sharing: int, come: int) -> None:
    """Passes that ``sharing`` conversations share, with a row each; ``come``: the token that comes."""
    outcome = PassOutput(np.zeros((0, 8), np.float32), np.zeros(8, np.float32))
    sampler = Sampler(Sampling(temperature=0))
    for depth in range(passes):
        tree = planner.tree(3, depth)
        rows = len(tree.tokens) + sharing - 1
        seconds = float(planner._costs.at(0)[rows - 1])
        planner.learn(
            StepResult(
                tree, (come,), outcome, sampler, [], "sampling", depth, rows, seconds, sharing - 1, sharing
            )
        )


def test_heads_that_cannot_pay_in_company_are_not_asked_there_and_are_alone() -> None:
    # a second row is cheap, and a fifth nearly as dear as four together
    costs = StepCosts(np.array([1.0, 3.0, 4.0, 32.0]), np.array([1.0, 1.2, 2.0, 50.0]), np.zeros(4))
    oracle = Oracle()
    planner = Planner(costs, oracle, quotes=False)  # type: ignore[arg-type]
    company(planner, 20, 1, come=3)
    assert oracle.asked == 20
    company(planner, 200, 4, come=3)
    assert oracle.asked == 20
    company(planner, 20, 1, come=3)
    assert oracle.asked == 40


def test_a_second_thought_is_drafted_and_learnt() -> None:
    class Doubting(Oracle):
        def ahead(self, *_: object) -> Iterator[DraftToken]:
            yield DraftToken(3, 0.5, None, ((5, 0.3), (6, 0.01)))

    planner = Planner(flat(), Doubting(), quotes=False)  # type: ignore[arg-type]
    hidden = planner._experience.at(0).hidden
    first, second = head_bucket(0, 0.5), head_bucket(0, 0.3, other=True)
    before = hidden.of(first), hidden.of(second)
    company(planner, 8, 1, come=5)
    assert planner.tree(5, 8).children(0) == [1, 2]
    assert planner.tree(5, 8).tokens == (5, 3, 5), "a third is hardly ever right"
    assert hidden.of(first) < before[0]
    assert hidden.of(second) > before[1]


def test_what_one_conversation_learnt_another_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("pass_edge.planning.planner.time.perf_counter", lambda: next(clock) / 100)
    costs = StepCosts(np.array([1.0, 2.0]), np.array([1.0, 1.5]), np.zeros(2))
    oracle, shared = Oracle(), DraftStatistics()
    planners = [Planner(costs, oracle, experience=shared, quotes=False) for _ in range(2)]  # type: ignore[arg-type]
    company(planners[0], 200, 1, come=7)  # the oracle drafts threes
    asked, believed = oracle.asked, shared.at(0).hidden.of(head_bucket(0, 1.0))
    company(planners[1], 20, 1, come=7)
    tries = oracle.asked - asked
    assert 0 < tries <= 2, "it need not find out for itself that these drafts are wrong"
    company(planners[1], 500, 1, come=3)
    assert shared.at(0.04).hidden.of(head_bucket(0, 1.0)) > believed, "temperatures so near are one"


def test_heads_that_may_pay_in_company_are_asked_there() -> None:
    oracle = Oracle()
    planner = Planner(flat(), oracle, quotes=False)  # type: ignore[arg-type]
    company(planner, 20, 4, come=3)
    assert oracle.asked == 20


@pytest.mark.parametrize(("step", "drafted"), [(0.0001, 4), (0.005, 1)])
def test_a_head_goes_on_only_while_that_is_worth_its_time(
    step: float, drafted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = [0.0], []

    class Slow:
        heads = object()

        def ahead(self, *_: object) -> Iterator[DraftToken]:
            asked.append(0)
            for _ in range(4):
                clock[0] += step
                asked[-1] += 1
                yield DraftToken(3, 1.0, None)

    monkeypatch.setattr("pass_edge.planning.planner.time.perf_counter", lambda: clock[0])
    company(Planner(flat(), Slow(), quotes=False), 5, 1, come=3)  # type: ignore[arg-type]
    assert asked == [drafted] * 5


# -- costs ----------------------------------------------------------------------------------------


def test_costs_follow_the_machine() -> None:
    costs = StepCosts(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0, 0.01]))
    assert costs.at(100).tolist() == [1.0, 2.0, 3.5, 5.0]
    for _ in range(300):
        costs.observe(1, 100, 2.0)
    assert costs.at(0)[0] == pytest.approx(2.0, rel=0.01)
    assert 2.0 < costs.at(0)[1] < 4.1, "what slows one down slows all down, if less surely"
    costs.observe(99, 0, 1.0)  # wider than known: nothing to learn


def test_a_change_of_width_is_not_held_against_it() -> None:
    costs = StepCosts(np.array([1.0, 2.0]), np.array([1.0, 1.5]), np.zeros(2), switching=0.5)
    for rows, seconds in ((2, 2.0), (2, 1.5), (1, 1.5), (1, 1.0)):
        costs.observe(rows, 0, seconds)
    assert costs.at(0).tolist() == [1.0, 1.5]
    assert costs.switching == 0.5


def test_measured_costs_are_remembered_and_damage_is_measured_again(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "pass_edge.planning.cost_model._time", lambda context, depth, width: width + depth / 1000
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


def test_costs_of_a_busy_machine_are_measured_again_on_an_idle_one(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr("pass_edge.planning.cost_model.default_threads", lambda: 2)
    used, notes = [2], []
    set_threads = Context.set_threads

    def spied(self: Context, single: int, batched: int) -> None:
        used[0] = single
        set_threads(self, single, batched)

    monkeypatch.setattr(Context, "set_threads", spied)

    def costs(seconds: dict[int, float]) -> StepCosts:
        """Of passes that take ``seconds`` with so many threads."""
        monkeypatch.setattr(
            "pass_edge.planning.cost_model._time", lambda context, depth, width: width * seconds[used[0]]
        )
        notes.clear()
        with Engine(tiny_path, note=notes.append) as engine:
            assert engine.costs is not None
            assert used[0] == (engine.costs.threads or (0,))[0]
            return engine.costs

    def was_measured() -> bool:
        return any("steps cost" in note for note in notes)

    assert costs({1: 1.0, 2: 3.0}).threads == (1, 1)  # one core has other work
    assert was_measured()
    assert costs({1: 1.0, 2: 3.0}).threads == (1, 1)
    assert not was_measured()
    assert costs({1: 1.0, 2: 0.9}).threads == (2, 2)  # no more
    assert was_measured()
    assert costs({1: 1.8, 2: 1.6}).at(0)[0] == pytest.approx(0.9), "a slow moment changes nothing"
    assert not was_measured()
    assert costs({1: 0.5, 2: 0.5}).at(0)[0] == pytest.approx(0.5)
    assert was_measured()


def test_threads_do_not_change_the_bits(tiny_path: Path) -> None:
    """So the fastest number may be chosen, for single and batched passes apart."""
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


def test_lookahead_tokens_are_not_even_tried_where_they_cannot_pay() -> None:
    assert may_look_ahead(flat())
    assert not may_look_ahead(steep())
    some = StepCosts(np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.1, 1.4]), np.zeros(3))
    assert may_look_ahead(some)
    assert not may_look_ahead(some, has_head=True), "a head drafts as much in less time"
    assert may_look_ahead(flat(), has_head=True)


# -- the schedule in the engine -------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(temperature=1.0, seed=5)])
@pytest.mark.parametrize("source", ["n-grams", "hidden head", "lookahead", "everything"])
def test_the_text_is_plain_decodings(
    source: str, sampling: Sampling, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.step_costs", flat)
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


def test_the_rejection_rule_drafts_too(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.step_costs", flat)
    lookahead = lookahead_for(tiny_path, hidden_head=random_head(4))
    with Engine(tiny_path, lookahead=lookahead, settings=Settings(verify="rejection")) as engine:
        done = engine.stream([1, 2, 3], sampling=Sampling(temperature=0.7, seed=1), max_tokens=200).run()
        assert sum(done.stats.accepted) > 0


def test_nothing_is_drafted_where_it_cannot_pay(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.step_costs", steep)
    monkeypatch.setattr(StepCosts, "observe", lambda *_: None)
    with Engine(tiny_path) as engine:
        done = engine.stream([1, 2, 1, 2, 1, 2], sampling=Sampling(temperature=0), max_tokens=60).run()
        assert done.stats.passes == len(done.ids)


def test_a_repeating_text_is_drafted_far_ahead(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.step_costs", flat)
    bias = Sampling(temperature=0, logit_bias={5: 1000.0})
    with Engine(tiny_path) as engine:
        done = engine.stream([1, 2, 3], sampling=bias, max_tokens=200).run()
        assert done.ids == [5] * 200
        assert done.stats.tokens_per_pass > 5


def test_a_new_conversation_forgets_the_draft() -> None:
    planner = Planner(flat())
    sampler = Sampler(Sampling(temperature=0))
    for conversation in ([1, 2, 3, 1, 2], [4, 5]):
        planner.begin(conversation)
        root, depth = conversation[-1], len(conversation) - 1
        tree = planner.tree(root, depth)
        assert tree.tokens == (root,)
        outcome = PassOutput(np.zeros((0, 8), np.float32))
        planner.learn(StepResult(tree, (3,), outcome, sampler, [], "sampling", depth, 1, 0.01))
        assert planner.tree(3, depth + 1).tokens[:3] == ((3, 1, 2) if len(conversation) > 2 else (3,))


@pytest.mark.parametrize(("rule", "children"), [("sampling", (4, 3)), ("rejection", (4,))])
def test_other_ways_to_go_on_are_drafted_where_rows_are_cheap(rule: str, children: tuple[int, ...]) -> None:
    planner, conversation = Planner(flat()), [1, 2, 3, 0, 1, 2, 4, 0, 1]
    planner.begin(conversation)
    outcome, sampler = PassOutput(np.zeros((0, 8), np.float32)), Sampler(Sampling(temperature=0))
    planner.learn(StepResult(planner.tree(1, 8), (2,), outcome, sampler, [], rule, 8, 1, 0.01))
    tree = planner.tree(2, 9)
    assert tuple(tree.tokens[node] for node in tree.children(0)) == children


def test_a_draft_is_compared_to_what_came_once() -> None:
    """Where no head drafts behind it, it must not be held against what comes later."""
    planner = Planner(flat(), quotes=False)
    planner.begin([1, 2])
    sampler, outcome = Sampler(Sampling(temperature=0)), PassOutput(np.zeros((0, 8), np.float32))
    chances = planner._experience.at(0)
    kind = head_bucket(0, 1.0)
    before = chances.hidden.of(kind)
    planner._expected = [(chances.hidden, {3: kind})]
    for depth, came in ((1, 3), (2, 4), (3, 5)):
        tree = planner.tree(2, depth)
        planner.learn(StepResult(tree, (came,), outcome, sampler, [], "sampling", depth, 1, 0.01))
        assert chances.hidden.of(kind) > before
