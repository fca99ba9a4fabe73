"""Small random models that draft for each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model


def write_model(path: Path, file_type: str = "Q8_0", **shape: Any) -> Path:
    """Write a model of 12 tokens. With the default ``shape`` and "Q8_0", it is that of ``tiny_path``; of
    another type, it drafts well for it; with another ``seed``, it does not."""
    shape = {"n_vocab": 12, "n_embd": 64, "n_head": 2, "n_ff": 128, "seed": 3} | shape
    source = write_tiny_model(path.with_suffix(".f32"), **shape)
    quantize(source, path, file_type)
    return path
