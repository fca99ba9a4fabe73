"""Statistics of drafts: acceptance rates, and trials of sources that do not pay."""

from __future__ import annotations

import numpy as np
import pytest

from pass_edge.drafting.ngrams import LONGEST
from pass_edge.planning.acceptance import AcceptanceRates, head_bucket, head_rates, ngram_bucket
from pass_edge.planning.draft_statistics import TrialBackoff


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
