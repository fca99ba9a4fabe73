"""Quantizing writes a whole file or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge import LibraryError, ModelError
from pass_edge.native.quantize import quantize


def test_a_failed_quantization_leaves_no_file(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(tiny_path.read_bytes()[:5000])
    with pytest.raises((ModelError, LibraryError)):
        quantize(tmp_path / "cut.gguf", tmp_path / "out.gguf", "Q4_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.gguf"]
