"""The planner asks a draft model where that pays, and lets it read what pays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge.drafting.drafter import DraftToken, PassOutput, StepResult
from pass_edge.drafting.tree import NO_DRAFT, Draft
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.draft_statistics import DraftStatistics
from pass_edge.planning.expected_speed import expected_speed
from pass_edge.planning.planner import Planner
from pass_edge.planning.tree_selection import TreeSelector
from pass_edge.sampling.sampler import Sampler, Sampling

PASS, ROW, STEP, TOKEN = 0.1, 0.01, 0.03, 0.005
"""Seconds of a pass and of each further row; of a pass of the draft model, and of a token that it reads."""

NOTHING, GREEDY = PassOutput(np.zeros((0, 8), np.float32)), Sampler(Sampling(temperature=0))


def costs_of(row: float = ROW) -> StepCosts:
    return StepCosts(np.array([1.0, 32.0]), np.array([PASS, PASS + 31 * row]), np.zeros(2))


class FakeConversation:
    """A draft model that always drafts the token 3, in the time of ``clock``."""

    depth, n_read, n_asked, trial_tokens = 8, 0, 0, 16

    def __init__(
        self, clock: list[float], step_seconds: float = STEP, token_seconds: float = TOKEN, sure: float = 0.9
    ) -> None:
        self._clock, self._sure = clock, sure
        self.step_seconds, self.token_seconds = step_seconds, token_seconds
        self.begin(())

    def begin(self, tokens: Sequence[int]) -> None:
        self.length = self.n_lacking = len(tokens)
        self.n_skipped = 0

    def append(self, tokens: Sequence[int]) -> None:
        self.length += len(tokens)
        self.n_lacking += len(tokens)

    def skip_to(self, position: int) -> None:
        self.n_skipped, self.n_lacking = position, self.length - position

    def read_from_start(self) -> None:
        if self.n_skipped:
            self.n_skipped, self.n_lacking = 0, self.length

    def read(self) -> int:
        count = min(128, self.n_lacking - 1)
        self.n_lacking -= count
        self.n_read += count
        self._clock[0] += count * self.token_seconds
        return count

    def draft_tokens(self, result: Any) -> Iterator[DraftToken]:
        self.n_asked += 1
        self._clock[0] += (self.n_lacking - 1) * self.token_seconds
        for _ in range(self.depth):
            self.n_lacking = 1
            self._clock[0] += self.step_seconds
            yield DraftToken(3, self._sure, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr("pass_edge.planning.planner.time.perf_counter", lambda: clock[0])
    return clock


def run(planner: Planner, clock: list[float], n_tokens: int, says: Iterator[int], row: float = ROW) -> float:
    """Decode so many tokens, with a model that says ``says``. Return the speed, to that of plain decoding."""
    said, began = 0, clock[0]
    while said < n_tokens:
        tree = planner.tree(7)
        new = [next(says)]
        while (child := tree.child_with(len(new) - 1, new[-1])) == len(new) and child is not None:
            new.append(next(says))
        n = len(tree.tokens)
        clock[0] += (seconds := PASS + row * (n - 1))
        said += len(new)
        if not planner.rests(new, 9, seconds):
            planner.learn(StepResult(tree, tuple(new), NOTHING, GREEDY, [], "sampling", 9, n, seconds))
    return said * PASS / (clock[0] - began)


def always(token: int) -> Iterator[int]:
    while True:
        yield token


def often_three(share: float, seed: int = 0) -> Iterator[int]:
    """3 with probability ``share``, else 7."""
    rng = np.random.default_rng(seed)
    while True:
        yield 3 if rng.random() < share else 7


def planner_of(
    conversation: FakeConversation,
    statistics: DraftStatistics | None = None,
    *,
    row: float = ROW,
    ngrams: bool = False,
) -> Planner:
    return Planner(
        costs_of(row),
        draft_model=conversation,  # type: ignore[arg-type]
        statistics=statistics,
        use_ngrams=ngrams,
    )


def test_a_draft_model_that_is_right_is_found_in_the_first_answer(clock: list[float]) -> None:
    conversation = FakeConversation(clock)
    planner = planner_of(conversation)
    planner.begin([1] * 300)
    assert run(planner, clock, 200, always(3)) > 1.1
    n_asked = conversation.n_asked
    planner.begin([1] * 20)
    assert run(planner, clock, 200, always(3)) > 1.5
    assert conversation.n_asked - n_asked > 200 / (1 + conversation.depth)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.floats(0.01, 1.2),
    token=st.floats(0.01, 0.5),
    row=st.floats(0.0, 0.9),
    sure=st.floats(0.05, 0.99),
    right=st.floats(0.0, 0.3),
    n_prompt=st.integers(1, 3000),
)
def test_one_that_is_mostly_wrong_costs_little_from_the_first_answer_on(
    clock: list[float], step: float, token: float, row: float, sure: float, right: float, n_prompt: int
) -> None:
    conversation = FakeConversation(clock, step * PASS, token * step * PASS, sure)
    planner = planner_of(conversation, row=row * PASS)
    says = often_three(right)
    for _ in range(4):
        planner.begin([1] * n_prompt)
        assert run(planner, clock, 200, says, row * PASS) > 0.96


def test_before_it_has_gained_anything_it_reads_only_the_last_tokens(clock: list[float]) -> None:
    conversation = FakeConversation(clock)
    planner = planner_of(conversation)
    planner.begin([1] * 4000)
    run(planner, clock, 300, always(7))
    assert 0 < conversation.n_asked < 20
    assert conversation.n_read <= 16 * conversation.n_asked


def test_a_long_text_is_read_once_that_may_pay(clock: list[float]) -> None:
    conversation, statistics = FakeConversation(clock), DraftStatistics()
    planner = planner_of(conversation, statistics)
    run(planner, clock, 300, always(3))
    conversation.n_read = 0
    planner.begin([1] * 200)
    run(planner, clock, 5, always(3))
    assert conversation.n_read >= 190, "at once: the draft model has shown what it gains"
    other = FakeConversation(clock)
    second = planner_of(other, statistics)
    second.begin([1] * 2000)
    run(second, clock, 200, always(3))
    assert other.n_read < 200, "an answer of a few words would not pay for it"
    assert other.n_asked > 5
    run(second, clock, 4000, always(3))
    assert other.n_read > 2000
    assert other.n_skipped == 0


def test_it_is_not_asked_where_certain_drafts_could_not_pay(clock: list[float]) -> None:
    conversation = FakeConversation(clock, step_seconds=PASS)
    run(planner_of(conversation), clock, 300, always(3))
    assert conversation.n_asked == conversation.n_read == 0


def test_it_is_not_asked_where_ngrams_draft_as_well(clock: list[float]) -> None:
    """All of a repeated text could be drafted by both, but n-grams take no time."""
    conversation = FakeConversation(clock, step_seconds=0.3 * PASS)
    planner = planner_of(conversation, ngrams=True)
    planner.begin([3] * 100)
    alone = planner_of(FakeConversation(clock, step_seconds=PASS), ngrams=True)
    alone.begin([3] * 100)
    assert run(planner, clock, 600, always(3)) > 0.98 * run(alone, clock, 600, always(3))
    assert conversation.n_asked <= 2


def test_a_draft_counts_for_what_it_saves_beside_other_drafts(clock: list[float]) -> None:
    """The token that it drafts would have been drafted from the conversation as well."""
    planner = planner_of(FakeConversation(clock))
    use, selector = planner._draft_model, planner._selector
    assert use
    tree = Draft.chain([3], [0.9]).below(7)
    result = StepResult(tree, (3, 7), NOTHING, GREEDY, [], "sampling", 9, 2, PASS + ROW)
    gains: list[float] = []
    planner._statistics.budget.record = lambda tokens, gain: gains.append(gain)  # type: ignore[method-assign]
    for without in (NO_DRAFT.below(7), tree):
        use.expect(selector, without)
        use.observe(result)
    assert gains == [pytest.approx(1 - ROW / PASS), 0.0]


def test_padding_after_a_trial_ends(clock: list[float]) -> None:
    """The wide graph of a pass with a draft is kept for some passes, but not for all that follow."""
    row, rebuild = 0.1 * PASS, 2.05 * PASS
    costs = StepCosts(np.array([1.0, 32.0]), np.array([PASS, PASS + 31 * row]), np.zeros(2), rebuild)
    planner = Planner(costs, use_ngrams=False)
    tree = Draft.chain([3], [0.9]).below(7)
    n_padded = 0
    for _ in range(60):
        n = len(tree.tokens)
        planner.learn(StepResult(tree, (7,), NOTHING, GREEDY, [], "sampling", 9, n, PASS + row * (n - 1)))
        tree = planner.tree(7)
        n_padded += len(tree.tokens) > 1
    assert 15 < n_padded < 30
    assert len(tree.tokens) == 1


def n_planned(planner: Planner, clock: list[float], n_tokens: int, says: Iterator[int]) -> int:
    """Decode so many tokens. Return after how many passes the next one was planned."""
    calls: list[StepResult] = []
    learn = planner.learn
    planner.learn = lambda result: (calls.append(result), learn(result))[1]  # type: ignore[method-assign]
    run(planner, clock, n_tokens, says)
    return len(calls)


def test_where_it_is_the_only_source_nothing_is_planned_while_it_rests(clock: list[float]) -> None:
    conversation = FakeConversation(clock)
    planner = planner_of(conversation)
    assert n_planned(planner, clock, 600, always(7)) < 60
    assert 0 < conversation.n_asked < 20
    assert conversation.length == 600, "it follows the conversation all the same"


def test_where_even_certain_drafts_could_not_pay_hardly_anything_is_planned(clock: list[float]) -> None:
    conversation = FakeConversation(clock, step_seconds=PASS)
    assert n_planned(planner_of(conversation), clock, 2000, always(3)) < 30
    assert conversation.n_asked == 0


def test_costs_follow_the_machine_while_it_rests(clock: list[float]) -> None:
    """Where passes are faster than measured, drafts would seem to save more than they do."""
    costs = StepCosts(np.array([1.0, 32.0]), 2 * np.array([PASS, PASS + 31 * ROW]), np.zeros(2))
    conversation = FakeConversation(clock, step_seconds=3 * PASS)
    planner = Planner(costs, draft_model=conversation, use_ngrams=False)  # type: ignore[arg-type]
    assert n_planned(planner, clock, 300, always(7)) < 30
    assert costs.at(9)[0] == pytest.approx(PASS, rel=0.02)
    planner.rests([7], 9, None)
    assert costs.at(9)[0] == pytest.approx(PASS, rel=0.02), "a shared pass tells nothing"


def test_beside_ngrams_every_pass_is_planned(clock: list[float]) -> None:
    planner = planner_of(FakeConversation(clock), ngrams=True)
    says = iter(range(100, 150))
    assert n_planned(planner, clock, 50, says) == 50


def test_a_grammar_is_planned_for_while_it_rests(clock: list[float]) -> None:
    """Its forced tokens are drafts, too."""
    planner = planner_of(FakeConversation(clock))
    sampler = Sampler(Sampling(temperature=0))
    sampler.unconstrained = GREEDY  # type: ignore[misc]
    tree = NO_DRAFT.below(7)
    planner._select = lambda *_: None  # type: ignore[method-assign]
    for _ in range(5):
        assert not planner.rests([7], 9, PASS)
        planner.learn(StepResult(tree, (7,), NOTHING, sampler, [], "sampling", 9, 1, PASS))


def test_one_that_is_right_more_often_than_it_believes_is_found(clock: list[float]) -> None:
    """What counts is what its drafts have saved."""
    conversation = FakeConversation(clock, step_seconds=0.4 * PASS, token_seconds=0.02 * PASS, sure=0.25)
    planner = planner_of(conversation)
    says = often_three(0.6)
    run(planner, clock, 600, says)
    n_asked = conversation.n_asked
    run(planner, clock, 200, says)
    assert conversation.n_asked - n_asked > 50


def test_planning_for_it_alone_is_paid_for_by_it(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where planning takes long beside a pass, and the draft model itself takes no time."""
    select = TreeSelector.select

    def slow_select(*args: Any) -> Draft:
        clock[0] += 0.5 * PASS
        return select(*args)

    monkeypatch.setattr(TreeSelector, "select", slow_select)
    planner = planner_of(FakeConversation(clock, 0.01 * PASS, 0.001 * PASS))
    for _ in range(3):
        planner.begin([1] * 10)
        assert run(planner, clock, 200, often_three(0.1)) > 0.96


def test_rebuilding_the_graph_after_its_drafts_is_charged_to_it(clock: list[float]) -> None:
    rebuild = 0.3 * PASS
    costs = StepCosts(np.array([1.0, 32.0]), np.array([PASS, PASS + 31 * ROW]), np.zeros(2), rebuild)
    planner = Planner(costs, draft_model=FakeConversation(clock), use_ngrams=False)  # type: ignore[arg-type]
    gains: list[float] = []
    planner._statistics.budget.record = lambda tokens, gain: gains.append(gain)  # type: ignore[method-assign]
    drafted, plain = Draft.chain([3], [0.9]).below(7), NO_DRAFT.below(7)
    for tree in (plain, drafted, plain, plain):
        n = len(tree.tokens)
        planner.learn(StepResult(tree, (7,), NOTHING, GREEDY, [], "sampling", 9, n, PASS + ROW * (n - 1)))
    there, back = pytest.approx(-(rebuild + ROW) / PASS, rel=0.1), pytest.approx(-rebuild / PASS, rel=0.1)
    assert gains == [0.0, there, back, 0.0]


def test_the_speed_to_expect() -> None:
    costs = StepCosts(np.array([1.0, 2.0]), np.array([1.0, 1.2]), np.zeros(2))
    assert expected_speed(costs, 0.3, [0.8]) == pytest.approx(1.8 / 1.5)
    assert expected_speed(costs, 0.3, [0.4]) < 1
    assert expected_speed(costs_of(), 0.0, [1.0]) == pytest.approx(32 * PASS / (PASS + 31 * ROW))
