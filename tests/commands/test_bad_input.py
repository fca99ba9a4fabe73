"""Bad input ends in one clear sentence and exit status 2: no traceback, nothing half-written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from pass_edge import Lookahead, read_lookahead, write_sidecar
from tests.support.command_line import assert_refused, run
from tests.support.lookaheads import default_sidecar


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
    assert_refused(run("generate", "Hi", "--model", default_sidecar()), "is a lookahead file")


@pytest.fixture
def shipped() -> Lookahead:
    return read_lookahead(default_sidecar())


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
    refused("from 0 to 64")
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
        assert_refused(run(*arguments, stdin=b"\n"), "the prompt is empty")


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
