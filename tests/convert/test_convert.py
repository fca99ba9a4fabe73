"""Checkpoints as other people save them, and files that are broken or hostile."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import struct
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from pass_edge import LookaheadError, OutputError, read_lookahead
from pass_edge.convert.checkpoint import convert, read_embeddings
from pass_edge.convert.inspection import inspect
from pass_edge.drafting.lookahead import Base
from pass_edge.native.embeddings import TokenEmbeddings

D, V = 64, 12  # the tiny model's
BASE = Base("llama", "tiny", D, V, "a" * 64, "b" * 64)
ROWS = np.random.default_rng(0).standard_normal((3, D)).astype(np.float32)
VOCABULARY = np.random.default_rng(1).standard_normal((V, D)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["lookahead.weight", "prompt_embeddings", "whatever"])
def test_a_tensor_of_its_own(name: str, dtype: type, tiny_path: Path, tmp_path: Path) -> None:
    save_file({name: ROWS.astype(dtype), "other": np.ones((3, 5), np.float32)}, tmp_path / "c.safetensors")
    convert(tmp_path / "c.safetensors", tiny_path, tmp_path / "o.pass.gguf")
    want = ROWS.astype(dtype).astype(np.float32)
    assert read_lookahead(tmp_path / "o.pass.gguf").embeddings.tobytes() == want.tobytes()


def model_directory(folder: Path, shards: int) -> Path:
    """A Hugging Face model of 12 tokens to which 3 were added, in one file or more."""
    folder.mkdir()
    matrix = np.concatenate([VOCABULARY, ROWS]).astype(ml_dtypes.bfloat16)
    tensors = {"model.embed_tokens.weight": matrix, "lm_head.weight": matrix[::-1].copy()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {name: f"model-{i + 1:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for name, file in weight_map.items():
        save_file({name: tensors[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_rows_added_to_a_vocabulary(shards: int, tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "model", shards)
    want = ROWS.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(read_embeddings(folder, BASE), want)
    # such rows are scaled by the model, as those of its tokens are
    np.testing.assert_array_equal(read_embeddings(folder, BASE, scale=np.float32(8)), 8 * want)
    with pytest.raises(LookaheadError, match="no tensors 'nothing'"):
        read_embeddings(folder, BASE, "nothing")


def test_rows_of_padding_are_no_lookahead(tmp_path: Path) -> None:
    padded = np.concatenate([VOCABULARY, ROWS, np.zeros((5, D), np.float32)])
    save_file({"model.embed_tokens.weight": padded}, tmp_path / "model.safetensors")
    assert len(read_embeddings(tmp_path, BASE)) == 8  # nothing tells them apart
    np.testing.assert_array_equal(read_embeddings(tmp_path, BASE, rows=range(V, V + 3)), ROWS)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": V, "<b>": V + 1, "<c>": V + 2}))
    np.testing.assert_array_equal(read_embeddings(tmp_path, BASE), ROWS)
    (tmp_path / "added_tokens.json").unlink()
    added = [{"id": 2, "content": "<s>"}, {"id": V + 2, "content": "<c>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    np.testing.assert_array_equal(read_embeddings(tmp_path, BASE), ROWS)
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"id": 2}]}')  # no token was added for them
    assert len(read_embeddings(tmp_path, BASE)) == 8


def test_tokens_that_took_the_place_of_padding_are_named_by_their_rows(tmp_path: Path) -> None:
    roomy = dataclasses.replace(BASE, n_vocab=V + 100)  # GGUF counts the rows of padding as tokens
    matrix = np.concatenate([np.tile(VOCABULARY, (6, 1)), ROWS])
    save_file({"model.embed_tokens.weight": matrix}, tmp_path / "model.safetensors")
    with pytest.raises(LookaheadError, match=r"--rows FIRST:COUNT.*75 × 64"):
        read_embeddings(tmp_path, roomy)
    with pytest.raises(LookaheadError, match=r"has 75 rows.*--rows FIRST:COUNT"):
        read_embeddings(tmp_path, roomy, "model.embed_tokens.weight")
    taken = read_embeddings(tmp_path, roomy, rows=range(72, 75), scale=np.float32(8))
    np.testing.assert_array_equal(taken, 8 * ROWS)
    for absent in (range(73, 76), range(72, 72)):
        with pytest.raises(LookaheadError, match="--rows"):
            read_embeddings(tmp_path, roomy, rows=absent)


@pytest.mark.slow
def test_rows_added_to_a_vocabulary_that_the_model_scales(gemma_path: Path, tmp_path: Path) -> None:
    """Such rows are stored as the model's own are, and reach llama.cpp as its own do."""
    tokens = np.array([1000, 2000], np.int32)
    own = TokenEmbeddings(gemma_path)
    rows = (own.rows(tokens) / own.scale).astype(np.float16)
    matrix = {"dtype": "F16", "shape": [262_146, 640], "data_offsets": [0, 262_146 * 640 * 2]}
    header = json.dumps({"model.embed_tokens.weight": matrix}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:  # sparse: the rows of the vocabulary are holes
        file.write(struct.pack("<Q", len(header)) + header)
        file.seek(262_144 * 640 * 2, os.SEEK_CUR)
        file.write(rows.tobytes())
    lookahead = convert(tmp_path, gemma_path, tmp_path / "o.pass.gguf")
    assert lookahead.embeddings.tobytes() == (rows.astype(np.float32) * np.float32(640**0.5)).tobytes()
    np.testing.assert_allclose(lookahead.embeddings, own.rows(tokens), rtol=1e-3)


def test_a_prompt_decoding_adapter(tmp_path: Path) -> None:
    save_file({"prompt_embeddings": ROWS}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"num_special_tokens": 3}')
    # these are inputs themselves: not scaled
    np.testing.assert_array_equal(read_embeddings(tmp_path, BASE, scale=np.float32(8)), ROWS)
    (tmp_path / "adapter_config.json").write_text('{"virtual_tokens_per_special_token": 2}')
    with pytest.raises(LookaheadError, match="only 1 can be converted"):
        read_embeddings(tmp_path, BASE)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_checkpoints(dtype: str, legacy: bool, tiny_path: Path, tmp_path: Path) -> None:
    rows = torch.from_numpy(ROWS).to(getattr(torch, dtype))
    want = rows.float().numpy().tobytes()
    nested = {"step": 3, "model": {"lookahead.weight": torch.nn.Parameter(rows), "norm": torch.ones(5)}}
    for content in (rows, {"whatever": rows}, nested, {"a": torch.zeros(D), "x": rows.T.contiguous().T}):
        torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
        convert(tmp_path / "c.pt", tiny_path, tmp_path / "o.pass.gguf", overwrite=True)
        assert read_lookahead(tmp_path / "o.pass.gguf").embeddings.tobytes() == want


def test_torch_directories(tmp_path: Path) -> None:
    matrix = torch.from_numpy(np.concatenate([VOCABULARY, ROWS]))
    torch.save({"model.embed_tokens.weight": matrix}, tmp_path / "pytorch_model.bin")
    (tmp_path / "training_args.bin").write_bytes(HOSTILE["runs code"])
    np.testing.assert_array_equal(read_embeddings(tmp_path, BASE, scale=np.float32(8)), 8 * ROWS)
    # as github.com/hmarkc/parallel-prompt-decoding saves its prompt tokens, through PEFT
    (tmp_path / "ppd").mkdir()
    torch.save({"prompt_embeddings": torch.from_numpy(ROWS)}, tmp_path / "ppd" / "adapter_model.bin")
    (tmp_path / "ppd" / "adapter_config.json").write_text('{"virtual_tokens_per_special_token": 1}')
    np.testing.assert_array_equal(read_embeddings(tmp_path / "ppd", BASE), ROWS)


class Intruder:
    """Its pickle runs a command when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch intruded",)


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


HOSTILE = {
    "runs code": saved({"lookahead.weight": torch.ones(3, D), "x": Intruder()}),
    "runs code, old form": saved(Intruder(), _use_new_zipfile_serialization=False),
    "a bare pickle": pickle.dumps(Intruder()),
    "truncated": saved({"lookahead.weight": torch.ones(3, D)})[:-100],
    "an empty archive": b"PK\x05\x06" + bytes(18),
    "sparse": saved({"lookahead.weight": torch.ones(3, D).to_sparse()}),
    "no tensor": saved({"lookahead.weight": [1.0, 2.0]}),
    "infinite": saved({"lookahead.weight": torch.full((3, D), torch.inf)}),
    "a million million rows": saved({"lookahead.weight": torch.ones(1).expand(10**12, D)}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_torch_file_is_one_sentence_and_runs_nothing(
    content: bytes, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(LookaheadError) as caught:
        convert(tmp_path / "c.pt", tiny_path, tmp_path / "o.pass.gguf")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_two_tensors_of_one_name_are_not_confused(tmp_path: Path) -> None:
    torch.save({"a.b": torch.ones(3, D), "a": {"b": torch.zeros(3, D)}}, tmp_path / "c.pt")
    for tensor in (None, "a.b"):
        with pytest.raises(LookaheadError, match=r"several tensors that fit|has 2 tensors"):
            read_embeddings(tmp_path / "c.pt", BASE, tensor)


def test_two_tensors_that_fit_need_a_name(tmp_path: Path) -> None:
    save_file({"a": ROWS, "b": -ROWS}, tmp_path / "c.safetensors")
    with pytest.raises(LookaheadError, match=r"several tensors that fit.*--tensor.*a \(3 × 64\)"):
        read_embeddings(tmp_path / "c.safetensors", BASE)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "c.safetensors", BASE, "b"), -ROWS)


def absurd_header() -> bytes:
    header = {"lookahead.weight": {"dtype": "F32", "shape": [10**12, D], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


BROKEN = {
    "empty": b"",
    "truncated": save({"lookahead.weight": ROWS})[:-1],
    "long header": struct.pack("<Q", 10**12) + b"{}",
    "absurd shape": absurd_header(),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "not finite": save({"lookahead.weight": np.full((2, D), np.nan, np.float32)}),
    "another width": save({"lookahead.weight": ROWS[:, :-1].copy()}),
    "too many rows": save({"lookahead.weight": np.zeros((V + 65, D), np.float32)}),
    "whole numbers": save({"lookahead.weight": np.ones((3, D), np.int32)}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_checkpoint_is_one_sentence_and_no_file(
    content: bytes, tiny_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(LookaheadError):
        convert(tmp_path / "c.safetensors", tiny_path, tmp_path / "o.pass.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_link_to_itself_and_an_index_that_points_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(LookaheadError):
        read_embeddings(tmp_path / "loop", BASE)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret"}}')
    with pytest.raises(LookaheadError, match="outside its directory"):
        read_embeddings(tmp_path, BASE)
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(LookaheadError):
        read_embeddings(tmp_path, BASE)


def test_an_output_that_exists_is_kept_unless_allowed(tiny_path: Path, tmp_path: Path) -> None:
    save_file({"lookahead.weight": ROWS}, tmp_path / "c.safetensors")
    (tmp_path / "o.pass.gguf").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        convert(tmp_path / "c.safetensors", tiny_path, tmp_path / "o.pass.gguf")
    assert (tmp_path / "o.pass.gguf").read_text() == "precious"
    convert(tmp_path / "c.safetensors", tiny_path, tmp_path / "o.pass.gguf", overwrite=True)
    assert len(read_lookahead(tmp_path / "o.pass.gguf")) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_one_sentence_and_no_file(tiny_path: Path, tmp_path: Path) -> None:
    save_file({"lookahead.weight": ROWS}, tmp_path / "c.safetensors")
    (tmp_path / "o.pass.gguf.unfinished").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        convert(tmp_path / "c.safetensors", tiny_path, tmp_path / "o.pass.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_inspect_tells_what_fits_and_why_not(tiny_path: Path, model_path: Path, tmp_path: Path) -> None:
    save_file({"lookahead.weight": ROWS}, tmp_path / "c.safetensors")
    sidecar = tmp_path / "o.pass.gguf"
    convert(tmp_path / "c.safetensors", tiny_path, sidecar, training="by hand")
    report = inspect([tiny_path, sidecar, model_path])
    tiny, carried, default = report["files"]
    assert (tiny["kind"], tiny["token_embeddings"], tiny["base"]["n_vocab"]) == ("model", "q8_0", V)
    assert (carried["kind"], carried["count"], carried["training"]) == ("lookahead", 3, "by hand")
    assert carried["base"] == tiny["base"]
    assert default["lookahead"].endswith(".pass.gguf")
    fits, differs = report["pairs"]
    assert fits["fits"]
    assert not fits["why"]
    assert not differs["fits"]
    assert "embedding width" in differs["why"][0]


GOOD = save({"lookahead.weight": ROWS[:1], "x": np.ones((2, 2), np.float32)})


@settings(max_examples=1000)
@given(st.dictionaries(st.integers(0, len(GOOD) - 1), st.integers(0, 255), max_size=8), st.integers(0, 40))
def test_any_damage_is_an_error_or_numbers(damage: dict[int, int], cut: int) -> None:
    content = bytearray(GOOD)
    for place, value in damage.items():
        content[place] = value
    with tempfile.TemporaryDirectory() as folder:  # one for each example: tmp_path is one for all
        path = Path(folder) / "c.safetensors"
        path.write_bytes(content[: len(content) - cut])
        try:
            rows = read_embeddings(path, BASE)
        except LookaheadError:
            return
        assert rows.shape[1] == D
