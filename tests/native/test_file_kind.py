"""Files that are no model that writes text are told by their metadata, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, ModelError
from pass_edge.native.file_kind import Kind, check_is_model, kind_of
from pass_edge.native.gguf_file import GgufFile
from tests.support.command_line import assert_refused, run
from tests.support.gguf_files import write_file

EMBEDS, SCORES = ("is an embedding model",), ("is a reranker",)
WEIGHTS = ("token_embd.weight",)
FILES: dict[str, tuple[str, Mapping[str, Any], tuple[str, ...], Kind, tuple[str, ...]]] = {
    "BERT": ("bert", {}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "BERT, pooled": ("nomic-bert", {"nomic-bert.pooling_type": 1}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "ModernBERT": ("modern-bert", {"modern-bert.attention.causal": False}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "XLM-RoBERTa": ("bert", {"tokenizer.ggml.model": "t5"}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "Jina": ("jina-bert-v2", {"jina-bert-v2.pooling_type": 1}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "EmbeddingGemma": ("gemma-embedding", {}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "T5's encoder": ("t5encoder", {}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "a decoder that pools the mean": ("llama", {"llama.pooling_type": 1}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "a decoder that pools the first": ("qwen2", {"qwen2.pooling_type": 2}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "Qwen3-Embedding": ("qwen3", {"qwen3.pooling_type": 3}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "not causal": ("llama", {"llama.attention.causal": False}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "segments of BERT": ("llama", {"tokenizer.ggml.token_type_count": 2}, WEIGHTS, Kind.EMBEDDING, EMBEDS),
    "BGE reranker": ("bert", {"bert.pooling_type": 4}, WEIGHTS, Kind.RERANKER, SCORES),
    "Qwen3-Reranker": ("qwen3", {"qwen3.pooling_type": 4}, WEIGHTS, Kind.RERANKER, SCORES),
    "a classifier": ("llama", {}, (*WEIGHTS, "cls.output.weight"), Kind.RERANKER, SCORES),
    "T5": ("t5", {}, WEIGHTS, Kind.ENCODER_DECODER, ("encoder-decoder", "decoder-only")),
    "Dream": ("dream", {}, WEIGHTS, Kind.DIFFUSION, ("diffusion",)),
    "EAGLE": ("eagle3", {}, WEIGHTS, Kind.DRAFT, ("EAGLE-3",)),
    "WavTokenizer": ("wavtokenizer-dec", {}, WEIGHTS, Kind.SPEECH, ("speech",)),
    "LoRA": (
        "llama",
        {"general.type": "adapter", "adapter.type": "lora"},
        ("blk.0.attn_q.weight.lora_a",),
        Kind.LORA,
        ("is a LoRA adapter", "give the model that it was made for"),
    ),
    "a lookahead": (
        "llama",
        {"general.type": "adapter", "pass.format_version": 1, "pass.base.name": "Tiny"},
        ("pass.lookahead.weight",),
        Kind.LOOKAHEAD,
        ("is a lookahead file", "'Tiny'", "--lookahead", "--model"),
    ),
    "a control vector": (
        "controlvector",
        {"controlvector.model_hint": "llama"},
        ("direction.1",),
        Kind.CONTROL_VECTOR,
        ("is a control vector",),
    ),
    "mmproj": ("clip", {"general.type": "mmproj"}, ("v.patch_embd.weight",), Kind.PROJECTOR, ("mmproj",)),
    "an old mmproj": ("clip", {"clip.has_text_encoder": True}, ("mm.0.weight",), Kind.PROJECTOR, ("mmproj",)),
    "imatrix": (
        "llama",
        {"general.type": "imatrix"},
        ("blk.0.attn_q.weight.in_sum2",),
        Kind.IMATRIX,
        ("is an importance matrix",),
    ),
    "a vocabulary": (
        "llama",
        {"tokenizer.ggml.tokens": ["a", "b"], "llama.vocab_size": 2},
        (),
        Kind.VOCABULARY,
        ("is a vocabulary without weights",),
    ),
    "no tensors": ("llama", {}, (), Kind.EMPTY, ("without tensors",)),
    "a later piece": (
        "llama",
        {"split.no": 1, "split.count": 3},
        ("blk.1.attn_q.weight",),
        Kind.LATER_PIECE,
        ("later piece", "-00001-of-00003.gguf"),
    ),
}  # fmt: skip
CASES = pytest.mark.parametrize(
    ("architecture", "keys", "tensors", "kind", "words"), FILES.values(), ids=FILES.keys()
)


@CASES
def test_a_file_of_another_kind_is_refused_in_words(
    architecture: str,
    keys: Mapping[str, Any],
    tensors: tuple[str, ...],
    kind: Kind,
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    path = write_file(tmp_path / "file.gguf", architecture, keys, tensors)
    with GgufFile(path) as file:
        assert kind_of(file) == kind
    with pytest.raises(ModelError) as refused:
        Engine(path)
    for word in (str(path), *words):
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [{}, {"llama.pooling_type": 0}, {"llama.attention.causal": True}, {"split.no": 0, "split.count": 1}],
)
def test_a_model_that_writes_text_is_one(keys: dict[str, Any], tmp_path: Path) -> None:
    with GgufFile(write_file(tmp_path / "m.gguf", "llama", keys)) as file:
        assert kind_of(file) == Kind.TEXT


@pytest.mark.parametrize(
    "key",
    [
        "general.type",
        "split.no",
        "split.count",
        "llama.pooling_type",
        "llama.attention.causal",
        "general.name",
    ],
)
@pytest.mark.parametrize("value", [[1, 2], "x", ["a", "b"]], ids=str)
def test_values_of_other_types_say_nothing(key: str, value: Any, tmp_path: Path) -> None:
    with GgufFile(write_file(tmp_path / "m.gguf", "llama", {key: value})) as file:
        assert kind_of(file) == Kind.TEXT


def test_a_merged_model_is_a_model(tmp_path: Path) -> None:
    with GgufFile(write_file(tmp_path / "m.gguf", "llama", {"pass.format_version": 1})) as file:
        assert kind_of(file) == Kind.TEXT


def test_models_of_other_kinds_are_models(tmp_path: Path) -> None:
    with GgufFile(write_file(tmp_path / "m.gguf", "bert", {})) as file:
        check_is_model(file)


@pytest.mark.parametrize("command", ["generate", "doctor", "bench", "chat"])
def test_all_commands_but_serve_refuse_an_embedding_model(command: str, tmp_path: Path) -> None:
    path = write_file(tmp_path / "file.gguf", "bert", {"bert.pooling_type": 1})
    options = ["hi"] if command == "generate" else []
    assert_refused(run(command, *options, "-m", path, stdin=b"hi\n"), "is an embedding model")


def test_inspect_says_what_a_file_is(tmp_path: Path, tiny_path: Path) -> None:
    for number, (architecture, keys, tensors, kind, _) in enumerate(FILES.values()):
        if kind == Kind.LOOKAHEAD:
            continue
        path = write_file(tmp_path / f"{number}.gguf", architecture, keys, tensors)
        done = run("inspect", path, tiny_path)
        assert done.exit_code == 0, done.output
        assert kind.words in done.stdout


OTHER_FILES = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n": "git lfs pull",
    b"PK\x03\x04\x00\x00\x08\x08": "zip",
    b"<!doctype html><html>": "web page",
    b"lmgg\x01\x00\x00\x00": "older than GGUF",
    (64).to_bytes(8, "little") + b'{"lm_head.weight"': "safetensors",
    b"GGU": "not a GGUF file",
}


@pytest.mark.parametrize(("content", "word"), OTHER_FILES.items(), ids=OTHER_FILES.values())
def test_files_that_are_taken_for_models(content: bytes, word: str, tmp_path: Path) -> None:
    (path := tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=word):
        Engine(path)


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="regular file"):
        Engine(path)


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(ModelError, match="cannot be read: File name too long"):
        Engine(Path("m" * 300))
    with pytest.raises(ModelError, match=r"there is no file m{100}, and no model of that name"):
        Engine("m" * 300)
