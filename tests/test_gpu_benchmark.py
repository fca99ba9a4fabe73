"""The measurement on a GPU, rehearsed without one: pieces join, models decode, projections add up."""

from __future__ import annotations

import time
from pathlib import Path

import gpu
import numpy as np
import pytest
from gpu_measurements import Run, projections
from random_llama import SHAPES, write_random_llama

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.model import Model


def packed(folder: Path) -> dict[str, bytes]:
    """Three files, split into parts of 2 MiB in ``folder``; what is in them."""
    rng = np.random.default_rng(0)
    contents = {f"{name}.whl": rng.bytes(size) for name, size in (("a", 10), ("b", 5 << 20), ("c", 2 << 20))}
    whole = folder / "whole"
    whole.mkdir()
    for name, content in contents.items():
        (whole / name).write_bytes(content)
    files = sorted(whole.iterdir())
    parts = gpu.split(files, folder, 2 << 20)
    listing = "".join(f"{gpu.sha256(file)}  {file.name}\n" for file in files)
    for part in parts:
        assert sum(piece.stat().st_size for piece in part.iterdir()) <= 2 << 20
        (part / "SHA256SUMS").write_text(listing)
    return contents


def test_what_is_split_joins_again(tmp_path: Path) -> None:
    contents = packed(tmp_path)
    gpu.join(tmp_path, tmp_path / "joined")
    assert {file.name: file.read_bytes() for file in (tmp_path / "joined").iterdir()} == contents


def test_a_missing_part_is_noticed(tmp_path: Path) -> None:
    packed(tmp_path)
    next(tmp_path.glob("part-*/b.whl.001")).unlink()
    with pytest.raises(SystemExit, match=r"b\.whl is not whole"):
        gpu.join(tmp_path, tmp_path / "joined")


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0"])
def test_random_weights_give_sane_logits(file_type: str, tmp_path: Path) -> None:
    path = write_random_llama(tmp_path / "random.gguf", SHAPES["0.02B"], file_type)
    with Model(path, repack=False) as model, Context(model, ContextSettings(cells=64)) as context:
        context.decode_tokens(rows_of_sequence(0, 8, outputs=8), np.arange(8, dtype=np.int32))
        logits = context.logits(8)
        assert 0.3 < logits.std() < 3


def run(deadline: float = float("inf")) -> Run:
    return Run(deadline, Path(), [1, 2, 4], [0], 1, 1, acceptance=[0.5, 0.5])


def test_the_projection_is_the_best_chain() -> None:
    # one draft: 1.5 tokens for 1.2 times the price; two drafts: 1.75 for 1.3 times (between 2 and 4 rows)
    found = projections({"0": [10.0, 12.0, 14.0]}, run())["0"]
    assert found["head"] == pytest.approx(1.75 / 1.3, abs=1e-3)
    assert found["fused"] == pytest.approx(1.5 / 1.4, abs=1e-3)


def test_what_time_does_not_allow_is_left_out_and_told() -> None:
    late, failing = run(time.time() + 5), run()
    late.stage("long", 60, dict)
    failing.stage("broken", 1, lambda: {}["nothing"])
    assert "60 s" in late.left_out["long"]
    assert "KeyError" in failing.left_out["broken"]
