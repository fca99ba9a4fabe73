"""The cost of a pass: measured, remembered, and corrected by every pass that runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pass_edge import Engine
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.devices import default_threads
from pass_edge.planning.cost_model import StepCosts, step_costs
from pass_edge.planning.planner import may_look_ahead
from tests.support.pass_costs import flat, steep


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
