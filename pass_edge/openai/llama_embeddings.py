"""`Llama(embedding=True)`: vectors of texts, as llama-cpp-python makes them of embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pass_edge.native.embedder import Embedder, is_embedding_model
from pass_edge.native.errors import SettingsError
from pass_edge.settings import Settings

from .embeddings import normalized

_UNSPECIFIED = -1  # `llama.h`, `enum llama_pooling_type`


def open_embedder(path: Path, settings: Settings, pooling_type: int) -> Embedder:
    """Load an embedding model. Raises SettingsError if it is none, or pools in another way than asked for;
    ModelError, ContextError."""
    if not is_embedding_model(path):
        raise SettingsError(
            f"embedding=True needs an embedding model, and {path.name} writes text; "
            "llama_cpp.Llama(…, embedding=True) makes vectors of its tokens"
        )
    embedder = Embedder(
        path,
        context_size=settings.context_size,
        gpu_layers=settings.gpu_layers or 0,
        threads=settings.threads,
    )
    if pooling_type not in (_UNSPECIFIED, embedder.pooling_type):
        embedder.close()
        raise SettingsError(
            f"pooling_type is {pooling_type}, and {path.name} was trained with {embedder.pooling_type}; "
            "leave it out"
        )
    return embedder


def embed(embedder: Embedder, texts: Sequence[Sequence[int]], *, normalize: bool) -> list[list[float]]:
    """Return the vector of each of ``texts``, token ids. Raises as ``Embedder.embed`` does."""
    vectors = np.concatenate([np.empty((0, embedder.width), np.float32), *embedder.embed(texts)])
    result: list[list[float]] = (normalized(vectors) if normalize else vectors).tolist()
    return result


def checked_texts(given: Any) -> list[str]:
    """Return ``given``, a text or several, as a list. Raises SettingsError."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(each, str) for each in texts):
        raise SettingsError(f"input is {given!r:.60}; it must be text, or a list of texts")
    return list(texts)
