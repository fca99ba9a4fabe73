"""The planner drafts what pays, asks the sources that pay, and does not change the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest.mock import MagicMock

import numpy as np
import pytest

from pass_edge import Engine, Sampling, Settings
from pass_edge.drafting.drafter import Drafter, DraftToken, PassOutput, StepResult
from pass_edge.drafting.tree import NO_DRAFT, TreeLimits
from pass_edge.planning.acceptance import head_bucket
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.draft_statistics import DraftStatistics
from pass_edge.planning.planner import Planner
from pass_edge.sampling.sampler import Sampler
from tests.support.lookaheads import lookahead_for, random_head
from tests.support.pass_costs import flat, steep


class FakeDrafter:
    """Drafts the token 3 with certainty, and counts how often it is asked."""

    heads, n_asked = object(), 0

    def draft_tokens(self, *_: object) -> Iterator[DraftToken]:
        self.n_asked += 1
        yield DraftToken(3, 1.0, None)


def run_passes(planner: Planner, n_passes: int, n_sharing: int, next_token: int) -> None:
    """Run passes that ``n_sharing`` share, the others with one row each, and that all give
    ``next_token``."""
    output = PassOutput(np.zeros((0, 8), np.float32), np.zeros(8, np.float32))
    sampler = Sampler(Sampling(temperature=0))
    others = n_sharing - 1
    for depth in range(n_passes):
        tree = planner.tree(3)
        rows = len(tree.tokens) + others
        seconds = float(planner._costs.at(0)[rows - 1])
        new = (next_token,)
        planner.learn(
            StepResult(tree, new, output, sampler, [], "sampling", depth, rows, seconds, others, n_sharing)
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


# -- the schedule in the engine -------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(temperature=1.0, seed=5)])
@pytest.mark.parametrize("source", ["n-grams", "hidden head", "lookahead", "everything"])
def test_the_text_is_that_of_plain_decoding(
    source: str, sampling: Sampling, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", flat)
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
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", flat)
    lookahead = lookahead_for(tiny_path, hidden_head=random_head(4))
    with Engine(tiny_path, lookahead=lookahead, settings=Settings(verify="rejection")) as engine:
        done = engine.stream([1, 2, 3], sampling=Sampling(temperature=0.7, seed=1), max_tokens=200).run()
        assert sum(done.stats.accepted) > 0


def test_nothing_is_drafted_where_it_cannot_pay(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", steep)
    monkeypatch.setattr(StepCosts, "observe", lambda *_: None)
    with Engine(tiny_path) as engine:
        done = engine.stream([1, 2, 1, 2, 1, 2], sampling=Sampling(temperature=0), max_tokens=60).run()
        assert done.stats.passes == len(done.ids)


def test_without_a_source_of_drafts_nothing_is_planned(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Planner, "learn")
    with Engine(tiny_path, lookahead=None, settings=Settings(threads=1, ngrams=False)) as engine:
        assert engine.schedule == "auto"
        answer = engine.stream([2, 1, 0] * 8, max_tokens=20, sampling=Sampling(temperature=0)).run()
    assert answer.stats.passes == len(answer.ids) == 20


@pytest.mark.parametrize("source", ["ngrams", "heads", "lookahead", "draft model", "grammar", "none"])
def test_any_source_of_drafts_is_planned_with(source: str) -> None:
    drafter = cast(Drafter, FakeDrafter()) if source == "heads" else None
    model = MagicMock() if source == "draft model" else None
    options = {"use_ngrams": source == "ngrams", "n_lookahead": int(source == "lookahead")}
    planner = Planner(flat(), drafter, draft_model=model, **options)
    sampler = Sampler(Sampling(temperature=0))
    if source == "grammar":
        sampler.unconstrained = Sampler(Sampling(temperature=0))
    assert planner.may_draft(sampler) == (source != "none")


def test_repeating_text_gets_long_drafts(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", flat)
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
    planner._predictions = [[(rates, {3: bucket})]]
    for depth, new in ((1, 3), (2, 4), (3, 5)):
        tree = planner.tree(2)
        planner.learn(StepResult(tree, (new,), output, sampler, [], "sampling", depth, 1, 0.01))
        assert rates.rate(bucket) > before


def test_a_row_costs_what_it_adds_to_the_others() -> None:
    costs = StepCosts(np.array([1.0, 4.0, 5.0, 32.0]), np.array([1.0, 1.1, 9.0, 60.0]), np.zeros(4))
    planner = Planner(costs)
    assert planner._selector.min_probability[0] < 0.1, "up to four rows are nearly free"
    output = PassOutput(np.zeros((0, 12), np.float32))
    tree = NO_DRAFT.below(1)
    passed = StepResult(
        tree, (3,), output, Sampler(Sampling()), [], "sampling", 5, 4, 1.1, other_rows=3, n_sharing=4
    )
    planner.learn(passed)
    assert planner._selector.min_probability[0] == 1, "the fifth is not"
    assert planner._selector.max_drafted == 28


def test_a_chain_that_leaves_a_shared_pass_is_charged_a_pass_of_its_own() -> None:
    planner = Planner(flat(), limits=TreeLimits(chains_only=True))
    sampler, output = Sampler(Sampling(temperature=0)), PassOutput(np.zeros((0, 8), np.float32))
    alone = StepResult(NO_DRAFT.below(1), (2,), output, sampler, [], "sampling", 8, 1, 0.01)
    seconds = flat().at(8)
    assert planner._seconds_beside_others(seconds, alone).tolist() == seconds.tolist()
    beside = replace(alone, other_rows=1, n_sharing=2, n_waiting=1)
    expected = [seconds[2], *(seconds[1] + seconds[1:])]
    assert planner._seconds_beside_others(seconds, beside).tolist() == pytest.approx(expected)


def test_no_more_is_drafted_than_the_memory_can_roll_back() -> None:
    planner = Planner(flat(), limits=TreeLimits(chains_only=True), max_drafted=3)
    planner.begin([1, 2, 3, 4, 5, 6, 7] * 4)
    sampler, output = Sampler(Sampling(temperature=0)), PassOutput(np.zeros((0, 8), np.float32))
    tree = NO_DRAFT.below(1)
    for depth, new in enumerate([2, 3, 4, 5, 6, 7, 1, 2, 3], 28):
        planner.learn(StepResult(tree, (new,), output, sampler, [], "sampling", depth, 1, 0.01))
    drafted = planner.tree(3)
    assert drafted.parents == (-1, 0, 1, 2)
