"""The planner drafts what pays, asks only the sources that pay, and never changes the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pass_edge import Engine, Sampling, Settings
from pass_edge.drafting.drafter import DraftToken, PassOutput
from pass_edge.drafting.schedules import StepResult
from pass_edge.drafting.tree import NO_DRAFT
from pass_edge.planning.acceptance import head_bucket
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.draft_statistics import DraftStatistics
from pass_edge.planning.planner import Planner
from pass_edge.sampling.sampler import Sampler
from tests.support.lookaheads import lookahead_for, random_head
from tests.support.pass_costs import flat, steep


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


def test_a_row_costs_what_it_adds_to_the_others() -> None:
    costs = StepCosts(np.array([1.0, 4.0, 5.0, 32.0]), np.array([1.0, 1.1, 9.0, 60.0]), np.zeros(4))
    planner = Planner(costs)
    assert planner._plan.least[0] < 0.1, "up to four rows are nearly free"
    outcome = PassOutput(np.zeros((0, 12), np.float32))
    tree = NO_DRAFT.below(1)
    passed = StepResult(
        tree, (3,), outcome, Sampler(Sampling()), [], "sampling", 5, 4, 1.1, others=3, sharing=4
    )
    planner.learn(passed)
    assert planner._plan.least[0] == 1, "the fifth is not"
    assert planner._plan.most == 28
