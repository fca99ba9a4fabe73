"""A split model is one model, also where its first piece holds no tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge import Engine, ModelError, Sampling, Settings
from pass_edge.decoding.saved_session import identity
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.model_path import pieces_of
from pass_edge.native.tiny_model import write_tiny_model
from tests.support.gguf_files import write_split_model

SHAPE = {"n_embd": 64, "n_head": 2, "n_ff": 128, "seed": 3, "n_vocab": 12}


@pytest.fixture(params=[False, True], ids=["tensors first", "no tensors first"])
def pieces(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    return write_split_model(tmp_path / "m.gguf", monkeypatch, empty_first=request.param, **SHAPE)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "whole.gguf", **SHAPE)


def test_a_split_model_gives_the_text_of_the_whole_one(pieces: list[Path], whole: Path) -> None:
    assert len(pieces) > 2
    answers = []
    for path in (pieces[0], whole):
        with Engine(path, settings=Settings(threads=1, context_size=64)) as engine:
            answers.append(engine.stream([1, 2, 3], sampling=Sampling(seed=5), max_tokens=12).run().ids)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 12


def test_its_tensors_are_those_of_all_pieces(pieces: list[Path], whole: Path) -> None:
    with GgufFile(pieces[0]) as split, GgufFile(whole) as one:
        assert list(split.pieces) == pieces
        assert split.tensors.keys() == one.tensors.keys()
        for name, tensor in one.tensors.items():
            data = b"".join(map(bytes, one.chunks(tensor)))
            assert b"".join(map(bytes, split.chunks(split.tensors[name]))) == data
    assert read_base(pieces[0]).embeddings_sha256 == read_base(whole).embeddings_sha256
    by_name = {path: identity(path)["weights_sha256"] for path in (pieces[0], whole)}
    assert len(set(by_name.values())) == 1


def test_another_last_piece_is_another_model(pieces: list[Path]) -> None:
    before = identity(pieces[0])
    with GgufFile(pieces[0]) as file:
        last = [tensor for tensor in file.tensors.values() if tensor.piece == len(pieces) - 1]
    content = bytearray(pieces[-1].read_bytes())
    content[last[0].offset] ^= 1
    pieces[-1].write_bytes(content)
    assert identity(pieces[0]) != before


def test_a_missing_piece_is_named(pieces: list[Path]) -> None:
    pieces[1].unlink()
    with pytest.raises(ModelError, match=f"{pieces[1].name} is not beside it"):
        Engine(pieces[0])


def test_a_piece_that_is_cut_off_is_named(pieces: list[Path]) -> None:
    pieces[-1].write_bytes(pieces[-1].read_bytes()[:-2000])
    with pytest.raises(ModelError, match=f"{pieces[-1].name} is damaged or cut off"):
        Engine(pieces[0])


def test_a_later_piece_names_the_first(pieces: list[Path]) -> None:
    with pytest.raises(ModelError, match=f"-00001-of-{len(pieces):05}.gguf"):
        Engine(pieces[1])


def test_a_renamed_first_piece_is_told_its_name(pieces: list[Path], tmp_path: Path) -> None:
    (renamed := tmp_path / "model.gguf").write_bytes(pieces[0].read_bytes())
    with pytest.raises(ModelError, match=f"its name must end in -00001-of-{len(pieces):05}.gguf"):
        Engine(renamed)


def test_names_of_pieces() -> None:
    assert pieces_of(Path("a/m-00001-of-00002.gguf")) == (
        Path("a/m-00001-of-00002.gguf"),
        Path("a/m-00002-of-00002.gguf"),
    )
    for alone in ("m.gguf", "m-00002-of-00002.gguf", "m-1-of-2.gguf"):
        assert pieces_of(Path(alone)) == (Path(alone),)
