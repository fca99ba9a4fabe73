"""Bad input ends in one clear sentence and exit status 2: no traceback, nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from gguf import GGUFWriter
from safetensors.numpy import save_file

from pass_edge import Lookahead, read_lookahead, write_sidecar
from pass_edge.__main__ import main
from pass_edge.drafting.lookahead_file import shipped_sidecars


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    for word in words:
        assert word in sentence
    assert result.stdout == ""


def test_a_model_that_is_none(tmp_path: Path, model_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.gguf").write_text("hello, I am a poem")
    (tmp_path / "cut.gguf").write_bytes(model_path.read_bytes()[:3_000_000])
    for name, word in (
        ("missing", "no file"),
        ("empty", "is empty"),
        ("text", "not a GGUF file"),
        ("cut", "damaged or cut off"),
    ):
        assert_refused(run("generate", "Hi", "--model", tmp_path / f"{name}.gguf"), name, word)
    assert_refused(run("generate", "Hi", "--model", tmp_path), "is a folder")
    assert_refused(run("generate", "Hi", "--model", next(iter(shipped_sidecars()))), "is a lookahead file")


@pytest.fixture
def shipped() -> Lookahead:
    return read_lookahead(next(iter(shipped_sidecars())))


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("architecture", "gemma3", "architecture"),
        ("n_vocab", 50_000, "vocabulary size"),
        ("tokenizer_sha256", "0" * 64, "tokenizer"),
    ],
)
def test_a_lookahead_for_another_model(
    shipped: Lookahead, tmp_path: Path, field: str, value: object, word: str
) -> None:
    other = dataclasses.replace(shipped, base=dataclasses.replace(shipped.base, **{field: value}))
    write_sidecar(other, tmp_path / "x.pass.gguf")
    assert_refused(run("generate", "Hi", "--lookahead", tmp_path / "x.pass.gguf"), "does not fit", word)


def test_a_lookahead_of_another_width(shipped: Lookahead, tmp_path: Path) -> None:
    narrow = Lookahead(shipped.embeddings[:, :64], dataclasses.replace(shipped.base, n_embd=64))
    write_sidecar(narrow, tmp_path / "x.pass.gguf")
    assert_refused(run("generate", "Hi", "--lookahead", tmp_path / "x.pass.gguf"), "width is 64", "576")


def raw_sidecar(path: Path, weight: np.ndarray, skip: str = "", count: int | None = None) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    numbers = {
        "pass.format_version": 1,
        "pass.lookahead.count": count or len(weight),
        "pass.embedding_length": weight.shape[1],
        "pass.base.vocabulary_size": 49152,
    }
    texts = ("pass.base.name", "pass.base.tokenizer_sha256", "pass.base.token_embeddings_sha256")
    for key, number in numbers.items():
        if key != skip:
            writer.add_uint32(key, number)
    for key in texts:
        if key != skip:
            writer.add_string(key, "x")
    writer.add_tensor("pass.lookahead.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_damaged_lookahead(tmp_path: Path) -> None:
    good = np.ones((4, 576), np.float32)
    path = tmp_path / "x.pass.gguf"

    def refused(*words: str) -> None:
        assert_refused(run("generate", "Hi", "--lookahead", path), *words)

    raw_sidecar(path, np.where(np.arange(576) == 3, np.nan, good))
    refused("not finite")
    raw_sidecar(path, np.ones((65, 576), np.float32))
    refused("at most 64")
    raw_sidecar(path, good, count=5)
    refused("4 × 576", "5 × 576")
    for key in ("pass.base.tokenizer_sha256", "pass.lookahead.count", "pass.base.vocabulary_size"):
        raw_sidecar(path, good, skip=key)
        refused("lacks the key", key)
    raw_sidecar(path, good, skip="pass.format_version")
    refused("holds no lookahead")
    raw_sidecar(path, good)
    whole = path.read_bytes()
    for length in (40, 400, len(whole) - 1000):
        path.write_bytes(whole[:length])
        refused("damaged or cut off")
    path.unlink()
    refused("no file")


def test_a_prompt_longer_than_the_context_says_both_lengths() -> None:
    result = run("generate", "word " * 400, "--ctx-size", "256")
    assert_refused(result, "256", "tokens and the context holds")


def test_an_empty_prompt() -> None:
    for arguments in (("generate",), ("generate", " ")):
        assert_refused(run(*arguments, stdin=b"\n"), "nothing to answer")


def test_an_answer_that_fills_the_context_says_so() -> None:
    result = run("generate", "Tell me a long story.", "--ctx-size", "80", "--temp", "0")
    assert result.exit_code == 0
    assert "context of 80 tokens is full" in result.stderr
    assert "--ctx-size" in result.stderr


def test_a_chat_whose_context_fills_up_says_so_and_goes_on(tmp_path: Path) -> None:
    lines = b"Tell me a long story.\nGo on, with every detail.\n/reset\nHi.\n/quit\n"
    result = run("chat", "--ctx-size", "80", "--temp", "0", stdin=lines)
    assert result.exit_code == 0
    assert "context of 80 tokens is full" in result.stderr
    assert "the context holds 80" in result.stderr
    assert "/reset" in result.stderr
    assert result.stderr.count("tokens/pass") == 2  # the story and, after /reset, the answer to "Hi."


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temp", "-1"),
        ("--temp", "nan"),
        ("--top-k", "-5"),
        ("--top-p", "0"),
        ("--min-p", "1.5"),
        ("--repeat-penalty", "0"),
        ("--logit-bias", "hello"),
        ("--n-predict", "0"),
        ("--schedule", "quick"),
        ("--verify", "hope"),
        ("--draft-max", "0"),
        ("--threads", "0"),
        ("--threads", "100000"),
        ("--cache-type-k", "q17"),
    ],
)
def test_a_setting_out_of_range(option: str, value: str) -> None:
    assert_refused(run("generate", "Hi", option, value))


def test_a_context_that_memory_cannot_hold() -> None:
    assert_refused(run("generate", "Hi", "--ctx-size", "1000000000"), "GiB", "--ctx-size")


def test_input_that_is_not_utf_8() -> None:
    assert_refused(run("generate", stdin=b"caf\xe9"), "not valid UTF-8")


def test_a_session_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "saved").write_bytes(b"pass-edge session 1\n0000\n{}\n")
    lines = f"/load {tmp_path / 'saved'}\n/load {tmp_path / 'none'}\n/save {tmp_path / 'no' / 'x'}\n/quit\n"
    result = run("chat", stdin=lines.encode())
    assert result.exit_code == 0
    assert [line for line in result.stderr.splitlines() if line.startswith("Error:")] == [
        f"Error: {tmp_path}/saved is damaged or cut off: its hash is wrong",
        f"Error: the session {tmp_path}/none cannot be read: No such file or directory",
        f"Error: {tmp_path}/no/x cannot be written: No such file or directory",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


# -- strangers' files, and outputs that cannot be written ---------------------------------------------


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
    "10^12 rows": (lambda path: path.write_bytes(endless_safetensors()), "no readable"),
    "a header of 10^12": (lambda path: path.write_bytes(text(b"{}", ENDLESS)), "no readable"),
    "text": (lambda path: path.write_text("no"), "no readable"),
    "truncated": (lambda path: os.truncate(safetensors(path, a=GOOD), 300), "no readable"),
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
