"""Results measured once per machine: how wide a pass may be, and whether the library works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pass_edge import LibraryError
from pass_edge.calibration import calibration
from pass_edge.calibration.calibration import library_verdict
from pass_edge.native import library_probe


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0, 0, 0, 0, 0, 0, 0], (32, 0.0)),
        ([0, 0, 0, 0.2, 0.1, 0.9, 0.9], (4, 0.2)),
        ([0.1, 0.2, 0.1, 0.1, 0, 0.9, 0.5], (1, 0.9)),
    ],
    ids=["all agree", "some agree", "none agrees"],
)
def test_the_difference_is_that_of_all_widths_that_will_differ(
    differences: list[float], expected: tuple[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_width = dict(zip(calibration.WIDTHS, differences, strict=True))
    comparison = object.__new__(calibration._BatchComparison)
    monkeypatch.setattr(comparison, "_largest_difference", lambda width, invariant: by_width[width])
    assert comparison.invariant_width() == expected


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
