"""Embeddings as OpenAI's API has them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

from pass_edge.native.context import Floats
from pass_edge.native.embedder import Embedder, normalized
from pass_edge.native.errors import ContextError, SettingsError

from .requests import EmbeddingRequest

Json = dict[str, Any]


class EmbeddingAnswer:
    """The answer to one request for embeddings; ask for its ``result``, once. ``cancel`` ends it from any
    thread, after the current pass."""

    def __init__(self, embedder: Embedder, request: EmbeddingRequest) -> None:
        """Raises SettingsError, ContextFullError."""
        if request.encoding_format not in ("float", "base64"):
            raise SettingsError(f"encoding_format is {request.encoding_format!r}; it must be float or base64")
        if request.dimensions not in (None, embedder.width):
            raise SettingsError(
                f"dimensions is {request.dimensions}; this model's vectors have {embedder.width}, and its "
                "file does not say that they may be cut; leave dimensions out"
            )
        self._embedder = embedder
        self._request = request
        self._texts = [embedder.tokenize(each) if isinstance(each, str) else each for each in _texts(request)]
        self._n_tokens = sum(map(len, self._texts))
        self._is_cancelled = False
        embedder.check_texts(self._texts)

    def result(self) -> Json:
        """Run to the end and return OpenAI's result object; the vectors have the length 1. Raises
        ContextError if it was cancelled."""
        vectors: list[Floats] = []
        for some in self._embedder.embed(self._texts):
            if self._is_cancelled:
                raise ContextError("the embeddings were cancelled, or took longer than the time limit")
            vectors += list(normalized(some))
        encode = _base64 if self._request.encoding_format == "base64" else _floats
        model = self._request.model or str(self._embedder.model.path)
        return embeddings_object([encode(vector) for vector in vectors], model, self._n_tokens)

    async def aresult(self) -> Json:
        """Await ``result``. Cancelling the task that waits cancels the answer."""
        try:
            return await asyncio.to_thread(self.result)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the answer after the current pass."""
        self._is_cancelled = True

    @property
    def usage(self) -> Json:
        """OpenAI's usage object."""
        return _usage(self._n_tokens)


def embeddings_object(embeddings: Sequence[object], model: str, n_tokens: int) -> Json:
    """Return OpenAI's result object."""
    data = [
        {"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(embeddings)
    ]
    return {"object": "list", "data": data, "model": model, "usage": _usage(n_tokens)}


def _usage(n_tokens: int) -> Json:
    return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}


def _texts(request: EmbeddingRequest) -> Sequence[str | Sequence[int]]:
    """The texts of a request: ``input`` may be one or several, each as text or as token ids."""
    given: Any = request.input
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    if not given:
        raise SettingsError("input is empty; give at least one text")
    return given


def _floats(vector: Floats) -> list[float]:
    return vector.tolist()


def _base64(vector: Floats) -> str:
    """The numbers as float32, little endian."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
