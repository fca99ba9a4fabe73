"""A recurrent memory keeps as many states as cost a plain pass little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pass_edge.native.context import Context
from pass_edge.native.model import Model
from pass_edge.planning.kept_states import cheap_states
from pass_edge.settings import Settings


@pytest.mark.parametrize(
    ("slower", "expected"),
    [(0.99, 8), (1.0, 8), (1.019, 8), (1.041, 3), (1.079, 2), (1.161, 0), (1.5, 0), (9.0, 0)],
)
def test_as_many_states_are_kept_as_cost_little(
    slower: float,
    expected: int,
    recurrent_path: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """``slower``: passes with eight kept states, in times of those without. It is measured once."""
    measured = []

    def pass_times(context: Context, depth: int, widths: list[int], **_: int) -> np.ndarray:
        assert widths == [1]
        measured.append(context.n_rollback)
        busy = 9 if len(measured) == 7 else 1  # another process takes the core for a moment
        return np.array([0.001 * busy * (slower if context.n_rollback else 1.0)])

    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr("pass_edge.planning.kept_states.pass_times", pass_times)
    notes: list[str] = []
    with Model(recurrent_path("qwen35")) as model:
        assert cheap_states(model, Settings(threads=1), 8, notes.append) == expected
        assert set(measured) == {0, 8}
        assert len(notes) == 1
        count = len(measured)
        assert cheap_states(model, Settings(threads=1), 8, notes.append) == expected
        assert (len(measured), len(notes)) == (count, 1)


def test_what_states_cost_is_measured(
    recurrent_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    with Model(recurrent_path("qwen35")) as model:
        assert 0 <= cheap_states(model, Settings(threads=1), 8) <= 8
