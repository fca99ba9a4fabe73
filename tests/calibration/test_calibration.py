"""Results measured once per machine: how wide a pass may be, and whether the library works."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from pass_edge import Engine, LibraryError, ModelError, Settings
from pass_edge.calibration import calibration
from pass_edge.calibration.calibration import _BatchComparison, library_verdict
from pass_edge.native import library_probe
from pass_edge.native.batch import Rows
from pass_edge.native.context import Context
from pass_edge.native.tiny_model import write_tiny_model


class FakeContext:
    """A context whose logits and hidden states of a token are its number, but for an error in batches of some
    widths, in their rows from ``first_wrong`` on; in hidden states alone if ``hides`` is set. Keeps the
    numbers of rows that were decoded."""

    def __init__(
        self, errors: dict[int, float], first_wrong: int = 0, size: int = 1 << 30, *, hides: bool = False
    ) -> None:
        self.model = SimpleNamespace(n_vocab=1 << 10, size=size)
        self._errors, self._first_wrong, self._hides, self.decoded = errors, first_wrong, hides, []

    def decode_tokens(self, rows: Rows, tokens: np.ndarray) -> None:
        self.decoded.append(len(rows))
        self._logits = np.repeat(tokens[:, None].astype(np.float32), self.model.n_vocab, 1)
        self._hidden = self._logits[:, :1].copy()
        wrong = self._hidden if self._hides else self._logits
        wrong[self._first_wrong :] += self._errors.get(len(rows), 0.0)

    def logits(self, count: int) -> np.ndarray:
        return self._logits[:count]

    def hidden(self, count: int) -> np.ndarray:
        return self._hidden[:count]

    def keep_hidden(self, wanted: bool) -> None: ...

    def save_state(self, sequence: int) -> np.ndarray:
        return np.empty(0, np.uint8)

    def restore_state(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("errors", "first_wrong", "width", "difference", "prompts_exact"),
    [
        ({}, 0, 32, 0, True),
        ({64: 3}, 0, 32, 0, False),
        ({64: 3}, 12, 32, 0, False),
        ({32: 2, 64: 3}, 0, 16, 2, False),
        ({16: 2}, 7, 8, 2, True),
        ({16: float("nan")}, 0, 8, float("inf"), True),
        ({7: 2, 8: 1, 16: 9, 32: 9, 64: 9}, 0, 4, 2, False),
        ({2: 1, 3: 2, 4: 1, 7: 1, 16: 9, 32: 5, 64: 3}, 0, 1, 9, False),
    ],
    ids=[
        "all agree", "prompts differ", "later rows of prompts differ", "the widest differs",
        "later rows differ", "no numbers", "some agree", "none agrees",
    ],
)  # fmt: skip
def test_the_width_is_that_of_all_that_agree_and_the_difference_that_of_those_used(
    errors: dict[int, float], first_wrong: int, width: int, difference: float, prompts_exact: bool
) -> None:
    comparison = _BatchComparison(cast(Context, FakeContext(errors, first_wrong)), 8)
    assert comparison.invariant_width() == (width, difference)
    assert comparison.prompts_exact == prompts_exact


def test_hidden_states_tell_more_than_logits() -> None:
    """Where they differ, the logits of other tokens will."""
    comparison = _BatchComparison(cast(Context, FakeContext({8: 1e-3, 16: 1e-3}, hides=True)), 8)
    assert comparison.invariant_width() == (7, calibration._HIDDEN_DIFFERENCE)


@pytest.mark.parametrize(("size", "n_tokens"), [(100 << 20, 16), (512 << 20, 8), (1 << 30, 4), (9 << 30, 4)])
def test_of_a_large_model_few_tokens_are_compared_and_each_width_once(size: int, n_tokens: int) -> None:
    context = FakeContext({}, size=size)
    comparison = _BatchComparison(cast(Context, context), 8)
    assert comparison.invariant_width() == (32, 0)
    assert comparison.prompts_exact
    batches = [width for width in (2, 3, 4, 7, 8, 16) for _ in range(max(1, n_tokens // width))]
    alone = [1] * n_tokens  # without hidden states, and with them
    assert context.decoded == [8, *alone, *alone, *batches, 64], "a prompt agrees, so 32 rows do"


def test_a_model_whose_logits_are_not_numbers_is_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "damaged.gguf")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes([0xFF]) * 4096)
    with pytest.raises(ModelError, match="not numbers"):
        Engine(path)


def test_what_passes_took_is_known_once_and_not_stored(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    settings = Settings(schedule="plain")
    with Engine(tiny_path, settings=settings) as engine:
        first = engine.calibration
    assert len(first.seconds) == 32
    assert min(first.seconds) > 0
    with Engine(tiny_path, settings=settings) as engine:
        assert engine.calibration == replace(first, seconds=())


def test_passes_that_keep_states_tell_nothing_about_others(
    recurrent_path: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    with Engine(recurrent_path("qwen35"), settings=Settings(schedule="plain")) as engine:
        assert engine.calibration.seconds == ()


def test_library_and_model_are_tried_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a process of its own, which the other must not wait for."""
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    model = tmp_path / "model.gguf"
    model.touch()
    both, tried = Barrier(2, timeout=10), []

    def probe() -> str:
        both.wait()
        return library_probe.WORKS

    def check_loads(path: Path) -> None:
        both.wait()
        tried.append(path)

    monkeypatch.setattr(calibration, "probe", probe)
    monkeypatch.setattr(calibration, "check_loads", check_loads)
    assert [calibration.check_model(model, lambda _: None) for _ in range(2)] == [True, True]
    assert tried == [model]


@pytest.mark.parametrize("verdict", [library_probe.WORKS, library_probe.BROKEN])
def test_a_model_that_cannot_be_loaded_is_tried_again(
    verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    (tmp_path / "model.gguf").touch()
    tried = []

    def check_loads(path: Path) -> None:
        tried.append(path)
        raise ModelError("no")

    monkeypatch.setattr(calibration, "probe", lambda: verdict)
    monkeypatch.setattr(calibration, "check_loads", check_loads)
    for _ in range(2):
        with pytest.raises(LibraryError if verdict == library_probe.BROKEN else ModelError):
            calibration.check_model(tmp_path / "model.gguf", lambda _: None)
    assert len(tried) == 2


def test_a_verdict_is_remembered_and_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PASS_EDGE_CACHE", str(tmp_path))
    notes: list[str] = []
    assert library_verdict(notes.append) == library_probe.WORKS
    assert library_verdict(notes.append) == library_probe.WORKS
    assert len(notes) == 1
    assert library_probe.check_verdict(library_probe.WORKS)
    assert not library_probe.check_verdict(library_probe.WORKS_WITHOUT_REPACKING)
    with pytest.raises(LibraryError, match="crashes on this machine"):
        library_probe.check_verdict(library_probe.BROKEN)


def test_a_damaged_memory_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PASS_EDGE_CACHE", str(tmp_path))
    library_verdict(lambda _: None)
    for file in tmp_path.iterdir():
        file.write_text("{")
    notes: list[str] = []
    assert library_verdict(notes.append) == library_probe.WORKS
    assert notes
