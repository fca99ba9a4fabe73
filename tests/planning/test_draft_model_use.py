"""The planner asks a draft model where that pays, and lets it read what pays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from pass_edge.drafting.drafter import DraftToken, PassOutput, StepResult
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.draft_model_use import DraftModelUse
from pass_edge.planning.draft_statistics import DraftStatistics, ReadingBudget, TrialBackoff
from pass_edge.planning.expected_speed import expected_speed
from pass_edge.planning.planner import Planner
from pass_edge.sampling.sampler import Sampler, Sampling

PASS, ROW, STEP, TOKEN = 0.1, 0.01, 0.03, 0.005
"""Seconds of a pass and of each further row; of a pass of the draft model, and of a token that it reads."""
COSTS = StepCosts(np.array([1.0, 32.0]), np.array([PASS, PASS + 31 * ROW]), np.zeros(2))


class FakeConversation:
    """A draft model that always drafts the token 3, in the time of ``clock``."""

    token_seconds, n_read, n_asked = TOKEN, 0, 0

    def __init__(self, clock: list[float], step_seconds: float = STEP) -> None:
        self._clock, self.step_seconds = clock, step_seconds
        self.begin(())

    def begin(self, tokens: Sequence[int]) -> None:
        self.length = self.n_lacking = len(tokens)

    def append(self, tokens: Sequence[int]) -> None:
        self.length += len(tokens)
        self.n_lacking += len(tokens)

    def read(self) -> int:
        count = min(128, self.n_lacking - 1)
        self.n_lacking -= count
        self.n_read += count
        self._clock[0] += count * TOKEN
        return count

    def draft_tokens(self, result: Any) -> Iterator[DraftToken]:
        self.n_asked += 1
        for _ in range(8):
            self.n_lacking = 1
            self._clock[0] += self.step_seconds
            yield DraftToken(3, 0.9, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr("pass_edge.planning.planner.time.perf_counter", lambda: clock[0])
    return clock


def run_passes(planner: Planner, clock: list[float], n_passes: int, says: int) -> float:
    """Run passes of a model that always says the token ``says``. Return its tokens per second."""
    output, sampler = PassOutput(np.zeros((0, 8), np.float32)), Sampler(Sampling(temperature=0))
    n_tokens, began = 0, clock[0]
    for _ in range(n_passes):
        tree = planner.tree(says)
        n_accepted = len(tree.tokens) - 1 if says == 3 else 0
        new, seconds = (says,) * (1 + n_accepted), PASS + ROW * (len(tree.tokens) - 1)
        clock[0] += seconds
        n_tokens += len(new)
        planner.learn(StepResult(tree, new, output, sampler, [], "sampling", 9, len(tree.tokens), seconds))
    return n_tokens / (clock[0] - began)


def planner_of(conversation: FakeConversation, statistics: DraftStatistics | None = None) -> Planner:
    return Planner(
        COSTS,
        draft_model=conversation,  # type: ignore[arg-type]
        statistics=statistics,
        use_ngrams=False,
    )


def test_a_draft_model_that_is_right_is_asked_at_every_step(clock: list[float]) -> None:
    conversation = FakeConversation(clock)
    assert run_passes(planner_of(conversation), clock, 60, says=3) > 1.5 / PASS
    assert conversation.n_asked == 60


def test_a_draft_model_that_is_wrong_costs_little(clock: list[float]) -> None:
    conversation = FakeConversation(clock)
    planner = planner_of(conversation)
    run_passes(planner, clock, 100, says=7)
    n_asked = conversation.n_asked
    assert n_asked < 40
    for _ in range(3):
        planner.begin([1] * 3000)
        assert run_passes(planner, clock, 200, says=7) > 0.97 / PASS
    assert conversation.n_asked - n_asked < 8


def test_a_long_text_is_read_only_where_that_may_pay(clock: list[float]) -> None:
    conversation, statistics = FakeConversation(clock), DraftStatistics()
    planner = planner_of(conversation, statistics)
    run_passes(planner, clock, 100, says=3)
    conversation.n_read = 0
    planner.begin([1] * 200)
    run_passes(planner, clock, 3, says=3)
    assert conversation.n_read >= 190, "at once: the draft model has shown what it gains"
    other = FakeConversation(clock)
    second = planner_of(other, statistics)
    second.begin([1] * 4000)
    run_passes(second, clock, 3, says=3)
    assert other.n_read == 0, "an answer of a few words would not pay for it"
    run_passes(second, clock, 500, says=3)
    assert other.n_read > 4000
    assert other.n_asked > 20


def test_it_is_not_asked_where_a_certain_draft_could_not_pay(clock: list[float]) -> None:
    conversation = FakeConversation(clock, step_seconds=PASS)
    run_passes(planner_of(conversation), clock, 60, says=3)
    assert conversation.n_asked == conversation.n_read == 0


def test_what_must_be_read_each_time_counts_against_it(clock: list[float]) -> None:
    """If it is asked for one token after every sixty, it must read sixty for each."""
    conversation = FakeConversation(clock)
    use, trials = DraftModelUse(conversation, ReadingBudget()), TrialBackoff()  # type: ignore[arg-type]
    use.begin([1, 2, 3])
    for _ in range(20):
        use.append([3] * 60)
        if use.is_ready(trials, PASS):
            use.record(trials, gain=0.5 * PASS)
    assert trials.mean_gain < 0


def test_what_was_read_before_does_not_count_against_it(clock: list[float]) -> None:
    conversation = FakeConversation(clock)
    use, trials = DraftModelUse(conversation, ReadingBudget()), TrialBackoff()  # type: ignore[arg-type]
    use.begin([1] * 300)
    for _ in range(20):
        use.append([3, 3])
        if use.is_ready(trials, PASS):
            use.record(trials, gain=0.5 * PASS)
    assert trials.mean_gain > 0


def test_the_speed_to_expect() -> None:
    costs = StepCosts(np.array([1.0, 2.0]), np.array([1.0, 1.2]), np.zeros(2))
    assert expected_speed(costs, 0.3, [0.8]) == pytest.approx(1.8 / 1.5)
    assert expected_speed(costs, 0.3, [0.4]) < 1
    assert expected_speed(COSTS, 0.0, [1.0]) == pytest.approx(32 * PASS / (PASS + 31 * ROW))
