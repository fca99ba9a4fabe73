"""Sidecar files are read as they were written, and used only where they fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pass_edge import Engine, Lookahead, LookaheadError, Settings, read_lookahead, write_sidecar
from pass_edge.convert.checkpoint import convert
from pass_edge.drafting.lookahead import Base
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.models.sidecars import find_lookahead
from pass_edge.native.model import Model
from tests.support.lookaheads import default_sidecar

BASE = Base("llama", "a model", 8, 100, "a" * 64, "b" * 64)
LOOKAHEAD = Lookahead(np.arange(24, dtype=np.float32).reshape(3, 8), BASE, (0.5, 0.25), "by hand")


def test_a_sidecar_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_sidecar(LOOKAHEAD, tmp_path / "x.pass.gguf")
    back = read_lookahead(tmp_path / "x.pass.gguf")
    np.testing.assert_array_equal(back.embeddings, LOOKAHEAD.embeddings)
    assert (back.base, back.acceptance, back.training) == (
        LOOKAHEAD.base,
        LOOKAHEAD.acceptance,
        LOOKAHEAD.training,
    )
    assert [p.name for p in tmp_path.iterdir()] == ["x.pass.gguf"]


def test_other_weights_give_a_warning_and_another_tokenizer_an_error() -> None:
    assert LOOKAHEAD.matches(BASE) == []
    assert len(LOOKAHEAD.matches(dataclasses.replace(BASE, embeddings_sha256="c" * 64))) == 1
    with pytest.raises(LookaheadError, match=r"'a model' and does not fit 'other'.*tokenizer"):
        LOOKAHEAD.matches(dataclasses.replace(BASE, name="other", tokenizer_sha256="c" * 64))


def test_the_shipped_lookahead_fits_the_default_model_in_every_quantization(model_path: Path) -> None:
    shipped = default_sidecar()
    with Model(model_path) as model:
        base = read_base(model.path)
    assert find_lookahead(model_path, base) == shipped
    assert read_lookahead(shipped).embeddings.shape == (4, 576)


def test_a_checkpoint_becomes_a_sidecar_with_the_same_numbers(tiny_path: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    numbers = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    save_file({"lookahead.weight": numbers}, tmp_path / "trained.safetensors")
    convert(tmp_path / "trained.safetensors", tiny_path, tmp_path / "tiny.pass.gguf")
    np.testing.assert_array_equal(read_lookahead(tmp_path / "tiny.pass.gguf").embeddings, numbers)
    settings = Settings(schedule="fused", draft_max=3)
    with Engine(tiny_path, lookahead=tmp_path / "tiny.pass.gguf", settings=settings) as engine:
        assert engine.schedule == "fused"
        assert len(engine.stream([1, 2], max_tokens=20).run().ids) == 20


def test_without_a_lookahead_file_drafts_come_from_the_conversation_and_a_note_says_so(
    tiny_path: Path,
) -> None:
    with Engine(tiny_path) as engine:
        assert engine.schedule == "auto"
        assert any("no lookahead file fits" in note for note in engine.notes)
        assert len(engine.stream([1, 2], max_tokens=5).run().ids) == 5
