"""The account of a draft source: a bad source loses little, and a good one is not held up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pass_edge.planning.trial_budget import TrialBudget

SHARE, MOST = 0.02, 8.0
PASSES = st.lists(st.tuples(st.integers(1, 9), st.floats(0, 4), st.floats(-1, 3)), min_size=20, max_size=300)
"""For each pass: the tokens that it yields, what asking would cost, and what its drafts would save."""


@given(PASSES)
def test_a_source_loses_no_more_than_a_share_and_one_trial(passes: list[tuple[int, float, float]]) -> None:
    budget = TrialBudget()
    lost, n_tokens, largest = 0.0, 0, 0.0
    for tokens, cost, saved in passes:
        gain = 0.0
        if budget.allows(cost):
            gain, largest = saved - cost, max(largest, cost - saved)
        budget.record(tokens, gain)
        lost, n_tokens = lost - gain, n_tokens + tokens
        assert lost <= SHARE * n_tokens + largest


@given(st.floats(0.05, 6), st.floats(0, 3))
def test_a_source_that_pays_is_not_held_up(cost: float, gain: float) -> None:
    budget = TrialBudget()
    n_waited = 0
    while not budget.allows(cost):
        budget.record(1, 0.0)
        n_waited += 1
    assert n_waited <= cost / SHARE + 2
    for _ in range(100):
        assert budget.allows(cost)
        budget.record(1, gain)


@given(st.integers(0, 600), st.floats(20, 1e9))
def test_a_machine_that_stood_still_ends_no_trials(n_passes: int, stall: float) -> None:
    budget = TrialBudget()
    for _ in range(n_passes):
        budget.record(1, 0.0)
    budget.record(1, -stall)
    for _ in range(int((MOST + 1) / SHARE)):
        budget.record(1, 0.0)
    assert budget.allows(1.0)


def test_what_it_gained_long_ago_does_not_pay_for_what_it_loses_now() -> None:
    budget = TrialBudget()
    for _ in range(1000):
        budget.record(2, 0.5)
    lost = 0.0
    for _ in range(1000):
        if budget.allows(0.5):
            budget.record(1, -0.5)
            lost += 0.5
        else:
            budget.record(1, 0.0)
    assert lost <= MOST + SHARE * 1000


def test_reading_is_lent_to_a_source_that_gains() -> None:
    budget = TrialBudget()
    assert not budget.lends(0.1, n_passes=1000), "it has shown no gain"
    for _ in range(200):
        budget.record(1, 0.5)
    assert budget.lends(30, n_passes=64)
    assert not budget.lends(35, n_passes=64)
    assert budget.lends(35, n_passes=100), "a long conversation will go on"
    for _ in range(4):
        budget.borrow(8)
    assert not budget.lends(5, n_passes=64), "not before the loan is paid back"
    assert budget.allows(8), "a loan is not drawn from the account"
    for _ in range(61):
        budget.record(1, 0.5)
    assert budget.lends(30, n_passes=64)


@pytest.mark.parametrize("gain", [0.0, -0.1])
def test_nothing_more_is_lent_to_a_source_that_stops_gaining(gain: float) -> None:
    budget = TrialBudget()
    for _ in range(100):
        budget.record(1, 1.0)
    assert budget.lends(10, n_passes=64)
    for _ in range(100):
        budget.record(1, gain)
    assert not budget.lends(10, n_passes=64)
