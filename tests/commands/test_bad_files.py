"""Broken input files, and outputs that cannot be written, end in one sentence and leave no file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import save_file

from tests.support.command_line import assert_refused, run


def safetensors(path: Path, **tensors: np.ndarray) -> Path:
    save_file(tensors, path)
    return path


GOOD = np.ones((2, 64), np.float32)
ENDLESS = 10**12


def text(value: bytes, length: int | None = None) -> bytes:
    """As GGUF and safetensors have it: behind its length, or what is said to be its length."""
    return struct.pack("<Q", len(value) if length is None else length) + value


def endless_safetensors() -> bytes:
    header = {
        "lookahead.weight": {"dtype": "F32", "shape": [ENDLESS, 64], "data_offsets": [0, 256 * ENDLESS]}
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(256)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another width": (lambda path: safetensors(path, x=GOOD[:, :9].copy()), "no tensor that fits"),
    "named, another width": (lambda path: safetensors(path, prompt_embeddings=GOOD[:, 1:].copy()), "63"),
    "no matrix": (lambda path: safetensors(path, prompt_embeddings=GOOD[0].copy()), "64"),
    "two that fit": (lambda path: safetensors(path, a=GOOD, b=GOOD), "--tensor"),
    "NaN": (lambda path: safetensors(path, a=GOOD * np.nan), "not finite"),
    "infinity": (lambda path: safetensors(path, a=(GOOD * np.inf).astype(np.float16)), "not finite"),
    "10^12 rows": (lambda path: path.write_bytes(endless_safetensors()), "not a readable"),
    "a header of 10^12": (lambda path: path.write_bytes(text(b"{}", ENDLESS)), "not a readable"),
    "text": (lambda path: path.write_text("no"), "not a readable"),
    "truncated": (lambda path: os.truncate(safetensors(path, a=GOOD), 300), "not a readable"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "a folder of nothing": (lambda path: path.mkdir(), "holds no safetensors file"),
    "nothing": (lambda path: None, "cannot be read"),
}


@pytest.mark.parametrize(("make", "word"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_checkpoint_that_cannot_be_converted(
    make: Callable[[Path], object], word: str, tiny_path: Path, tmp_path: Path
) -> None:
    make(tmp_path / "c")
    before = sorted(tmp_path.iterdir())
    assert_refused(run("convert", tmp_path / "c", "-m", tiny_path, "-o", tmp_path / "out.pass.gguf"), word)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("rows", ["3", "a:b", "-1:2", "0:0", "1:2", "0:65", f"0:{10**30}"])
def test_rows_that_are_not_there(rows: str, tiny_path: Path, tmp_path: Path) -> None:
    checkpoint = safetensors(tmp_path / "c", a=GOOD)
    result = run("convert", checkpoint, "-m", tiny_path, "-o", tmp_path / "o", "--rows", rows)
    assert_refused(result, "FIRST:COUNT")


def gguf_of(keys: bytes, n_keys: int, tensors: bytes = b"", n_tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys + tensors


STRING, ARRAY, UINT32 = 8, 9, 4
NUMBER = text(b"a.key") + struct.pack("<II", UINT32, 7)
TENSOR = text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 1, 0, 0)
GGUFS = {
    "10^12 keys": gguf_of(NUMBER, ENDLESS),
    "10^12 tensors": gguf_of(NUMBER, 1, TENSOR, ENDLESS),
    "a name of 10^12 letters": gguf_of(text(b"a.key", ENDLESS), 1),
    "a text of 10^12 letters": gguf_of(text(b"a.key") + struct.pack("<I", STRING) + text(b"x", ENDLESS), 1),
    "10^12 numbers": gguf_of(text(b"a.key") + struct.pack("<IIQ", ARRAY, UINT32, ENDLESS) + bytes(64), 1),
    "10^12 texts": gguf_of(text(b"a.key") + struct.pack("<IIQ", ARRAY, STRING, ENDLESS) + bytes(64), 1),
    "10^12 rows": gguf_of(
        NUMBER, 1, text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 32, ENDLESS, 0, 0) + bytes(256), 1
    ),
    "2^63 numbers": gguf_of(
        NUMBER, 1, text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 2**32, 2**31, 0, 0) + bytes(256), 1
    ),
    "10^12 dimensions": gguf_of(NUMBER, 1, text(b"token_embd.weight") + struct.pack("<I", 10**9), 1),
    "two keys of a name": gguf_of(NUMBER * 2, 2),
    "two tensors of a name": gguf_of(NUMBER, 1, TENSOR * 2, 2) + bytes(512),
    "a key without a name": gguf_of(text(b"") + struct.pack("<II", UINT32, 7), 1),
    "no end": gguf_of(NUMBER, 1, TENSOR, 1),
}


@pytest.mark.parametrize("content", GGUFS.values(), ids=GGUFS.keys())
def test_a_gguf_that_cannot_be_read(content: bytes, tiny_path: Path, tmp_path: Path) -> None:
    (bad := tmp_path / "bad.gguf").write_bytes(content)
    checkpoint, out = safetensors(tmp_path / "c", a=GOOD), tmp_path / "out"
    before = sorted(tmp_path.iterdir())
    for command in (
        ("inspect", bad),
        ("convert", checkpoint, "-m", bad, "-o", out),
        ("merge", bad, bad, "-o", out),
        ("merge", tiny_path, bad, "-o", out),
    ):
        assert_refused(run(*command), "bad.gguf is damaged or cut off")
    assert_refused(run("quantize", bad, out, "Q4_0"), "cannot load this model")
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_on_which_llama_cpp_aborts(tiny_path: Path, tmp_path: Path) -> None:
    no_layers, sidecar, out = tmp_path / "bad.gguf", tmp_path / "s", tmp_path / "out"
    whole = tiny_path.read_bytes()
    layers = whole.index(key := b"llama.block_count") + len(key) + 4
    no_layers.write_bytes(whole[:layers] + bytes(4) + whole[layers + 4 :])
    convert = ("convert", safetensors(tmp_path / "c", a=GOOD), "-m", no_layers, "-o", sidecar)
    assert run(*convert).exit_code == 0
    before = sorted(tmp_path.iterdir())
    assert_refused(run("merge", no_layers, sidecar, "-o", out), "cannot load this model: it died")
    assert_refused(run("quantize", no_layers, out, "Q4_0"), "cannot load this model: it died")
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def writers(tiny_path: Path, tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """Every command that writes a file, up to that file's name."""
    checkpoint, sidecar = safetensors(tmp_path / "c", a=GOOD), tmp_path / "s"
    assert run("convert", checkpoint, "-m", tiny_path, "-o", sidecar).exit_code == 0
    return {
        "convert": ("convert", checkpoint, "-m", tiny_path, "-o"),
        "merge": ("merge", tiny_path, sidecar, "-o"),
        "quantize": ("quantize", tiny_path),
    }


@pytest.mark.parametrize("command", ["convert", "merge", "quantize"])
def test_an_output_that_cannot_be_written(
    command: str, writers: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    def written(output: Path, *options: str) -> Result:
        return run(*writers[command], output, *(["Q8_0"] if command == "quantize" else []), *options)

    out, loop, folder = tmp_path / "out", tmp_path / "loop", tmp_path / "folder"
    out.write_text("precious")
    loop.symlink_to(loop)
    folder.mkdir()
    before = sorted(tmp_path.iterdir())
    for taken in (out, loop, folder):
        assert_refused(written(taken), "exists", "--force")
    assert_refused(written(folder, "--force"), "cannot be written")
    assert_refused(written(tmp_path / "no" / "where"), "cannot be written")
    if Path("/dev/full").exists():
        (tmp_path / "out.unfinished").symlink_to("/dev/full")
        word = "is the disk full" if command == "quantize" else "No space left"
        assert_refused(written(out, "--force"), "cannot be written", word)
    assert sorted(tmp_path.iterdir()) == before
    assert out.read_text() == "precious"
    assert written(out, "--force").exit_code == 0
    assert out.read_bytes()[:4] == b"GGUF"
