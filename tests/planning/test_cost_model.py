"""Costs of passes are measured, stored, and corrected by every pass that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pass_edge import Engine, Settings
from pass_edge.native.batch import Rows, rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.devices import default_threads
from pass_edge.native.model import Model
from pass_edge.planning.cost_model import StepCosts, step_costs
from pass_edge.planning.pass_times import _sees_repeated_text, pass_times, read_text
from pass_edge.planning.planner import may_look_ahead
from pass_edge.settings import context_settings
from tests.support.pass_costs import flat, steep


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


def test_rows_are_measured_with_tokens_that_differ(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # equal tokens would be sent to the same experts of a mixture, which would then look cheap in every width
    decoded: list[list[int]] = []
    decode_tokens = Context.decode_tokens

    def spy(self: Context, rows: Rows, tokens: npt.NDArray[np.int32]) -> None:
        decoded.append(tokens.tolist())
        decode_tokens(self, rows, tokens)

    monkeypatch.setattr(Context, "decode_tokens", spy)
    with Model(tiny_path) as model, Context(model, ContextSettings(cells=64)) as context:
        read_text(context, 0, 16)
        pass_times(context, 16, [1, 8], repeats=1)
    assert [len(tokens) for tokens in decoded] == [16, 1, 8]
    assert all(len({*tokens}) > len(tokens) / 2 for tokens in decoded)


@pytest.mark.parametrize(("cells", "starts"), [(64, [8, 16, 24]), (24, [8, 16])], ids=["room", "no room"])
def test_passes_in_a_row_follow_each_other_as_in_decoding(
    cells: int, starts: list[int], recurrent_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a recurrent state that is restored between them makes llama.cpp build its graph anew
    began: list[int] = []
    restored: list[int] = []
    restore = Context.restore_state
    monkeypatch.setattr(
        "pass_edge.planning.pass_times._pass_time",
        lambda context, depth, width: (began.append(depth), read_text(context, depth, depth + width), 1.0)[2],
    )
    monkeypatch.setattr(
        Context, "restore_state", lambda self, *given: (restored.append(given[2]), restore(self, *given))
    )
    with Model(recurrent_path("qwen35")) as model, Context(model, ContextSettings(cells=cells)) as context:
        read_text(context, 0, 8)
        pass_times(context, 8, [8], in_a_row=3, repeats=2)
        assert context.last_position(0) == 7
    assert began == starts * 2
    assert restored == [8, 8]


def test_measured_costs_are_stored_and_measured_again_if_damaged(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "pass_edge.planning.pass_times._pass_time", lambda context, depth, width: width + depth / 1000
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
    monkeypatch.setattr("pass_edge.calibration.calibration._BatchComparison.seconds", lambda _: ())
    threads, notes = [2], []
    set_threads = Context.set_threads

    def spy(self: Context, single: int, batched: int) -> None:
        threads[0] = single
        set_threads(self, single, batched)

    monkeypatch.setattr(Context, "set_threads", spy)

    def costs(seconds: dict[int, float]) -> StepCosts:
        """Return the engine's costs if passes take ``seconds``, by the number of threads."""
        monkeypatch.setattr(
            "pass_edge.planning.pass_times._pass_time",
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


MEASURED, AGAIN = [1, 2, 3, 4, 7, 8, 16, 32], [1, 2, 3, 4, 7, 8, *(1, 8) * 2]  # after many tokens the last


@pytest.mark.parametrize(
    ("with_half", "known", "threads", "decoded"),
    [
        (None, False, None, [1, *MEASURED, *AGAIN]),
        (None, True, None, AGAIN),
        (2.0, False, (2, 2), [1, 1, 1, 1, 1, *MEASURED, *AGAIN]),
        (2.0, True, (2, 2), [1, 1, *AGAIN]),
        (1.1, True, (2, 2), [1, 1, 8, 8, *AGAIN]),
        (0.5, True, (1, 1), [1, 1, 8, 8, 1, *MEASURED, *AGAIN]),
    ],
    ids=[
        "threads given", "threads given, known", "half are slow", "half are slow, known",
        "half are a little slower, known", "half are faster, known",
    ],
)  # fmt: skip
def test_passes_of_a_slow_model_are_measured_no_more_than_needed(
    with_half: float | None,
    known: bool,
    threads: tuple[int, int] | None,
    decoded: list[int],
    tiny_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``with_half``: the time of a pass with half of the cores, in times of that with all; None: the threads
    are given."""
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr("pass_edge.planning.cost_model.default_threads", lambda: 2)
    now, widths = [2], []

    def pass_time(context: Context, depth: int, width: int) -> float:
        widths.append(width)
        return (1.0 + width / 10) * (with_half or 1.0 if now[0] == 1 else 1.0)

    monkeypatch.setattr("pass_edge.planning.pass_times._pass_time", pass_time)
    monkeypatch.setattr(Context, "set_threads", lambda self, *threads: now.__setitem__(0, threads[0]))
    settings = Settings(threads=2 if with_half is None else None)
    seconds = [1.0 + width / 10 for width in range(1, 33)] if known else []
    with Model(tiny_path) as model, Context(model, context_settings(model, settings, 256)) as context:
        costs = step_costs(context, settings, 32, known=seconds)
    assert costs.threads == threads
    factor = 0.5 if threads == (1, 1) else 1.0
    assert costs.at(100) == pytest.approx([factor * (1.0 + width / 10) for width in range(1, 33)])
    assert widths == decoded


def test_a_slow_moment_of_the_first_pass_is_no_cost(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr("pass_edge.planning.pass_times._pass_time", lambda context, depth, width: 0.1 * width)
    settings = Settings(threads=1)
    known = [0.1 * width * (5 if width in (3, 8) else 1) for width in range(1, 33)]
    with Model(tiny_path) as model, Context(model, context_settings(model, settings, 256)) as context:
        costs = step_costs(context, settings, 32, known=known)
    assert costs.at(0) == pytest.approx([0.1 * width for width in range(1, 33)])


@pytest.mark.parametrize("seconds", [1e-3, 1.0], ids=["fast", "slow"])
@pytest.mark.parametrize("repeats", [True, False], ids=["text is repeated", "text is read"])
def test_what_a_long_text_adds_is_measured(
    seconds: float, repeats: bool, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a pass depends on the KV cells that its tokens see."""
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    read, decode = [], Context.decode_tokens
    monkeypatch.setattr("pass_edge.planning.pass_times._sees_repeated_text", lambda _: repeats)
    monkeypatch.setattr("pass_edge.planning.pass_times._READING_LIMIT", 100.0)
    monkeypatch.setattr(
        Context,
        "decode_tokens",
        lambda self, rows, tokens: (read.append(len(rows)), decode(self, rows, tokens)),
    )
    settings = Settings(threads=1)
    with Model(tiny_path) as model, Context(model, context_settings(model, settings, 2048)) as context:
        read_text(context, 0, 1)
        cell = len(context.save_sequence(0))
        read_text(context, 1, 2)
        cell = len(context.save_sequence(0)) - cell
        context.clear()
        read.clear()
        monkeypatch.setattr(
            "pass_edge.planning.pass_times._pass_time",
            lambda context, depth, width: (
                seconds * width * (1 + len(context.save_sequence(0)) // cell / 1000)
            ),
        )
        costs = step_costs(context, settings, 32)
        assert context.last_position(0) == context.last_position(1) == -1
    assert sum(read) == (8 if repeats else 1024)
    rows = np.arange(1, 9)
    assert costs.at(0)[:8] == pytest.approx(seconds * rows, rel=0.01)
    assert costs.at(2000)[:8] == pytest.approx(3 * seconds * rows, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "window", "repeats"), [("llama", None, True), ("llama", 512, False), ("qwen35", None, False)]
)
def test_the_text_is_repeated_where_all_layers_see_all_of_it(
    kind: str, window: int | None, repeats: bool, tiny_path: Path, recurrent_path: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tiny_path if kind == "llama" else recurrent_path(kind)
    with Model(path) as model, Context(model, ContextSettings(cells=256, sequences=4)) as context:
        if window:
            metadata = {f"{kind}.attention.sliding_window": str(window)}
            monkeypatch.setattr(model, "metadata", lambda key: metadata.get(key, kind))
        assert _sees_repeated_text(context) == repeats


@pytest.mark.parametrize("seconds", [1e-3, 1.0], ids=["fast", "slow"])
@pytest.mark.parametrize("widest", [1, 2, 5, 9, 17, 32])
def test_the_widest_step_has_a_cost(
    widest: int, seconds: float, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "pass_edge.planning.pass_times._pass_time", lambda context, depth, width: seconds * width
    )
    settings = Settings(threads=1)
    with Model(tiny_path) as model, Context(model, context_settings(model, settings, 512)) as context:
        costs = step_costs(context, settings, widest)
    assert costs.at(0) == pytest.approx([seconds * width for width in range(1, widest + 1)])


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
