"""A lookahead is merged into a split model: the pieces become one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pass_edge import Lookahead, ModelError, OutputError, write_sidecar
from pass_edge.convert.merge import merge
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model
from tests.support.command_line import run
from tests.support.gguf_files import write_split_model

SHAPE = {"n_embd": 64, "n_head": 2, "n_ff": 128, "seed": 3, "n_vocab": 12}


@pytest.fixture(params=[False, True], ids=["tensors first", "no tensors first"])
def pieces(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    pieces = write_split_model(tmp_path / "m.gguf", monkeypatch, empty_first=request.param, **SHAPE)
    base = read_base(pieces[0])
    write_sidecar(Lookahead(np.ones((3, base.n_embd), np.float32), base), tmp_path / "m.pass.gguf")
    return pieces


def test_the_merged_file_is_that_of_the_whole_model(pieces: list[Path], tmp_path: Path) -> None:
    sidecar, whole = tmp_path / "m.pass.gguf", write_tiny_model(tmp_path / "whole.gguf", **SHAPE)
    for source, name in ((pieces[0], "merged.gguf"), (whole, "expected.gguf")):
        result = run("merge", str(source), str(sidecar), "-o", str(tmp_path / name))
        assert result.exit_code == 0, result.output
    assert (tmp_path / "merged.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    with GgufFile(tmp_path / "merged.gguf") as file:
        assert [file.get(f"split.{key}") for key in ("no", "count", "tensors.count")] == [None] * 3


def test_no_piece_is_overwritten_or_taken_for_the_model(pieces: list[Path], tmp_path: Path) -> None:
    sidecar = tmp_path / "m.pass.gguf"
    for piece in pieces:
        with pytest.raises(OutputError, match="made from"):
            merge(pieces[0], sidecar, piece, overwrite=True)
    with pytest.raises(ModelError, match="00001-of-"):
        merge(pieces[1], sidecar, tmp_path / "merged.gguf")
    pieces[-1].unlink()
    with pytest.raises(ModelError, match="is not beside it"):
        merge(pieces[0], sidecar, tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()


def test_quantizing_makes_one_file_too(pieces: list[Path], tmp_path: Path) -> None:
    quantize(pieces[0], tmp_path / "q8.gguf", "Q8_0")
    with GgufFile(tmp_path / "q8.gguf") as file:
        assert file.get("split.count") is None
        assert file.tensors["token_embd.weight"].type_name == "q8_0"
    result = run("quantize", str(pieces[0]), str(pieces[1]), "Q8_0", "--force")
    assert "made from" in result.output
