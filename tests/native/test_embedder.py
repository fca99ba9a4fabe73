"""Vectors of texts are llama-cpp-python's, whichever texts share a pass."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import PoolingType

from pass_edge import ModelError, SettingsError
from pass_edge.native.embedder import Embedder, is_embedding_model
from pass_edge.native.errors import ContextFullError
from tests.support.tiny_bert import write_embedding_decoder, write_tiny_bert

TEXTS = ["the river", "yes", "no no no the rivers", "", *["the yes"] * 20, "yes no"]


def vectors_of(embedder: Embedder, texts: list[str]) -> np.ndarray:
    return np.concatenate([*embedder.embed([embedder.tokenize(text) for text in texts])])


def references(path: Path, texts: list[str]) -> np.ndarray:
    llama = llama_cpp.Llama(str(path), embedding=True, n_ctx=64, n_gpu_layers=0, n_threads=1, verbose=False)
    try:
        return np.array([llama.embed(text) for text in texts])
    finally:
        llama.close()


@pytest.mark.parametrize("kind", [PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST, "decoder"])
def test_vectors_are_llama_cpp_pythons(
    kind: PoolingType | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    if kind == "decoder":
        write_embedding_decoder(path, monkeypatch)
    else:
        write_tiny_bert(path, pooling=kind)
    texts = [text for text in TEXTS if text]
    with Embedder(path, threads=1) as embedder:
        got = vectors_of(embedder, texts)
        assert got.shape == (len(texts), embedder.width) == (len(texts), 64)
        assert np.std(got[:3], axis=0).max() > 0.1, "different texts have different vectors"
        # which computes attention in another precision
        assert np.allclose(got, references(path, texts), atol=5e-3)
        assert np.allclose(vectors_of(embedder, texts[2:3]), got[2:3], atol=5e-3)


def test_vectors_of_texts_have_the_length_1(tmp_path: Path) -> None:
    with Embedder(write_tiny_bert(tmp_path / "m.gguf"), threads=1) as embedder:
        raw = vectors_of(embedder, TEXTS)
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        assert np.allclose(embedder.vectors(TEXTS), expected, atol=1e-6)
        assert embedder.vectors([]).shape == (0, 64)


def test_texts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with Embedder(write_tiny_bert(tmp_path / "m.gguf", context=8), threads=1) as embedder:
        assert len(vectors_of(embedder, ["", "the yes no the yes no"])) == 2  # 2 and 8 tokens
        for tokens in ([], [99], [-1], [2] * 9):
            with pytest.raises(ContextFullError if len(tokens) > 8 else SettingsError, match="text 1"):
                [*embedder.embed([[2], tokens])]


def test_only_files_that_say_how_are_embedding_models(tmp_path: Path, speaking_path: Path) -> None:
    assert not is_embedding_model(speaking_path)
    with pytest.raises(ModelError, match="no embedding model"):
        Embedder(speaking_path)
    path = write_tiny_bert(tmp_path / "m.gguf", pooling=None)
    assert is_embedding_model(path)
    with pytest.raises(ModelError, match="pooling_type"):
        Embedder(path)
    path = write_tiny_bert(tmp_path / "rank.gguf", pooling=PoolingType.RANK)
    with pytest.raises(ModelError, match="no embedding model"):
        Embedder(path)
