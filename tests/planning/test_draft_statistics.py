"""Draft statistics: acceptance rates by bucket, and when a source that does not pay is tried."""

from __future__ import annotations

import numpy as np
import pytest

from pass_edge.drafting.ngrams import MAX_MATCH_LENGTH
from pass_edge.planning.acceptance import AcceptanceRates, head_bucket, head_rates, ngram_bucket
from pass_edge.planning.draft_statistics import TrialBackoff


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


def test_trials_come_in_rows() -> None:
    trials, tried = TrialBackoff(max_interval=8, first_trials=2, in_a_row=3), []
    for step in range(40):
        if trials.is_due():
            tried.append(step)
            trials.record(-1.0)
    assert tried == [0, 1, 3, 4, 5, 9, 10, 11, 19, 20, 21, 29, 30, 31, 39]


def test_a_row_of_trials_that_cannot_go_on_has_ended() -> None:
    trials = TrialBackoff(first_trials=4, in_a_row=4)
    assert trials.is_due()
    trials.record(-1.0, goes_on=False)
    assert trials.is_rare
    assert [trials.is_due() for _ in range(3)] == [False, True, True]
