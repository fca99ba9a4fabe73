"""An embedding model: texts in, one vector for each out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from .batch import joined, rows_of_sequence
from .compute import compute
from .context import Context, ContextSettings, Floats
from .errors import ContextFullError, ModelError, SettingsError
from .file_kind import Kind, kind_of
from .gguf_file import GgufFile
from .model import Model

_TOGETHER = 16  # most texts that share a pass
_DEFAULT_CONTEXT = 2048


def is_embedding_model(path: str | Path) -> bool:
    """Return whether the file at ``path`` is an embedding model. Raises ModelError."""
    with GgufFile(path) as file:
        return kind_of(file) is Kind.EMBEDDING


class Embedder:
    """An embedding model, loaded. Close it, or use it as a context manager. May be used from any thread.

    Attributes: ``model``; ``context_size``: most tokens of a text; ``width``: numbers in a vector;
    ``pooling_type``: llama.cpp's number of the way in which the vectors of tokens become one.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context_size: int | None = None,
        gpu_layers: int = 0,
        threads: int | None = None,
    ) -> None:
        """Load ``path``. ``context_size``: at most, and with 0, as the model was trained; None: the same, but
        at most 2048. Raises ModelError, also if the file does not say how tokens become one vector;
        ContextError."""
        if not is_embedding_model(path):
            raise ModelError(f"{path} is no embedding model")
        with ExitStack() as opened:
            self.model = opened.enter_context(Model(path, gpu_layers=gpu_layers))
            trained = self.model.n_ctx_train
            wanted = _DEFAULT_CONTEXT if context_size is None else context_size or trained
            self.context_size = min(trained, wanted)
            rows = max(self.context_size, _TOGETHER)  # llama.cpp wants an output for each sequence
            settings = ContextSettings(
                cells=rows,
                batch_size=rows,
                sequences=_TOGETHER,
                outputs=rows,
                threads=threads,
                flash_attention=None,
                pooled=True,
            )
            self._context = opened.enter_context(Context(self.model, settings))
            self.width, self.pooling_type = self._context.pooled_width, self._context.pooling_type
            if not self.width:
                raise ModelError(
                    f"{path} does not say how a text's vectors become one (pooling_type), so it has no "
                    "embeddings of texts; convert the model again with a newer llama.cpp"
                )
            self._opened = opened.pop_all()

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of ``text``, between the tokens that the model expects at its ends."""
        return self.model.vocabulary.tokenize(text, add_special=True, parse_special=True).tolist()

    def check(self) -> None:
        """Raise ModelError once the model is closed."""
        _ = self.model.handle

    def check_texts(self, texts: Sequence[Sequence[int]]) -> None:
        """Raise ContextFullError if a text is too long, SettingsError if it is empty or has a token that does
        not exist."""
        for number, text in enumerate(texts):
            if not text:
                raise SettingsError(f"text {number} is empty; it needs at least one token")
            if len(text) > self.context_size:
                raise ContextFullError(
                    f"text {number} has {len(text)} tokens and the model reads {self.context_size} at most; "
                    "shorten it"
                )
            if not all(0 <= token < self.model.n_vocab for token in text):
                raise SettingsError(
                    f"a token id of text {number} is outside the vocabulary of {self.model.n_vocab}"
                )

    def embed(self, texts: Sequence[Sequence[int]]) -> Iterator[Floats]:
        """Yield the vectors of ``texts``, token ids, as the model gives them: arrays (n, width) float32, a
        few texts at a time. Raises as ``check_texts`` does, ModelError once it is closed, ContextError."""
        self.check()
        self.check_texts(texts)
        for group in self._groups(texts):
            yield compute(lambda group=group: self._pass(group))  # type: ignore[misc]

    def vectors(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of ``texts``, (n, width) float32, each of length 1, so that a product of two is
        their similarity. Raises as ``embed`` does."""
        found = [normalized(some) for some in self.embed([self.tokenize(text) for text in texts])]
        return np.concatenate([np.zeros((0, self.width), np.float32), *found])

    def _groups(self, texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """Yield ``texts`` in groups that share a pass."""
        group: list[Sequence[int]] = []
        for text in texts:
            if len(group) == _TOGETHER or sum(map(len, group)) + len(text) > self.context_size:
                yield group
                group = []
            group.append(text)
        if group:
            yield group

    def _pass(self, texts: Sequence[Sequence[int]]) -> Floats:
        rows = joined(
            [rows_of_sequence(0, len(text), sequence=i, outputs=len(text)) for i, text in enumerate(texts)]
        )
        self._context.clear()
        self._context.decode_tokens(rows, np.concatenate(texts).astype(np.int32))
        return self._context.pooled(len(texts))

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._opened.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def normalized(vectors: Floats) -> Floats:
    """Return ``vectors`` (n, width) scaled to the length 1; null vectors stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, np.float32(1))
