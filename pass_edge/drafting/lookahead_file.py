"""Read and write lookaheads: in a sidecar file of their own, or *merged* into the model's file.

docs/format.md describes both. The keys and arrays are declared once below, for reading and writing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LookaheadError, ModelError
from pass_edge.native.file_kind import check_is_model
from pass_edge.native.gguf_file import GgufFile, NewTensor, Value, open_gguf, write_gguf
from pass_edge.native.library import GGML_TYPES
from pass_edge.native.model_path import readable
from pass_edge.native.output_file import atomic_write
from pass_edge.native.quantized_matrix import QuantizedMatrix, bytes_per_row, encode_rows

from .lookahead import MAX_COUNT, MAX_INPUTS, MAX_WIDTH, Base, Floats, Lookahead

FORMAT_VERSION = 1
WEIGHT, PREFIX = "pass.lookahead.weight", "pass.prefix.weight"
HEAD, HIDDEN_HEAD = "pass.head", "pass.hidden_head"
_HEAD_PARTS = ("gate", "up", "down")
_TYPES = {"f32": np.float32, "q8_0": np.uint8}
"""The types that can be read, with the dtype of the arrays that hold them in a merged model's keys."""

T = TypeVar("T")


class Keys:
    """The GGUF keys of a lookahead, in a sidecar or a merged file."""

    TYPE = "general.type"
    ARCHITECTURE = "general.architecture"
    NAME = "general.name"
    TOKENS = "tokenizer.ggml.tokens"

    VERSION = "pass.format_version"
    COUNT = "pass.lookahead.count"
    WIDTH = "pass.embedding_length"
    PREFIX = "pass.prefix.count"
    HEAD = "pass.head.width"
    HEAD_INPUTS = "pass.head.inputs"
    HIDDEN_HEAD = "pass.hidden_head.width"
    CANDIDATES = "pass.candidates"
    BASE_NAME = "pass.base.name"
    BASE_VOCABULARY = "pass.base.vocabulary_size"
    BASE_TOKENIZER = "pass.base.tokenizer_sha256"
    BASE_EMBEDDINGS = "pass.base.token_embeddings_sha256"
    ACCEPTANCE = "pass.acceptance"
    TRAINING = "pass.training"

    OPTIONAL = (PREFIX, HEAD, HEAD_INPUTS, HIDDEN_HEAD)
    """Counts that are 0 where the key is missing."""


# -- writing ------------------------------------------------------------------------------------------


def write_sidecar(lookahead: Lookahead, path: str | Path) -> None:
    """Write ``lookahead`` to ``path``; the file appears only once it is complete. Raises OutputError."""
    tensors = [
        NewTensor(name, GGML_TYPES[matrix.type_name], matrix.shape, partial(iter, [matrix.data]))
        for name, matrix in _matrices(lookahead)
    ]
    head = {Keys.TYPE: "adapter", Keys.ARCHITECTURE: lookahead.base.architecture}
    with atomic_write(path) as unfinished:
        write_gguf(unfinished, head | _metadata(lookahead), tensors)


def merged_metadata(lookahead: Lookahead) -> dict[str, Value]:
    """Return ``lookahead`` as keys, its arrays among them: llama.cpp refuses tensors that it does not
    know."""
    metadata = _metadata(lookahead)
    for name, matrix in _matrices(lookahead):
        metadata[name] = matrix.data.reshape(-1).view(_TYPES[matrix.type_name])
    return metadata


def _matrices(lookahead: Lookahead) -> Iterator[tuple[str, QuantizedMatrix]]:
    """Yield the name and matrix of each part of ``lookahead``."""
    for name, rows in ((WEIGHT, lookahead.embeddings), (PREFIX, lookahead.prefix)):
        if rows is not None and len(rows):
            yield name, QuantizedMatrix(encode_rows(rows, "f32"), "f32", rows.shape[1])
    for name, head in ((HEAD, lookahead.head), (HIDDEN_HEAD, lookahead.hidden_head)):
        for part in _HEAD_PARTS if head else ():
            yield f"{name}.{part}.weight", getattr(head, part)


def _metadata(lookahead: Lookahead) -> dict[str, Value]:
    base = lookahead.base
    metadata: dict[str, Value] = {
        Keys.VERSION: FORMAT_VERSION,
        Keys.COUNT: len(lookahead),
        Keys.WIDTH: base.n_embd,
        Keys.PREFIX: 0 if lookahead.prefix is None else len(lookahead.prefix),
        Keys.HEAD: lookahead.head.width if lookahead.head else 0,
        Keys.HEAD_INPUTS: lookahead.head.inputs if lookahead.head else 0,
        Keys.HIDDEN_HEAD: lookahead.hidden_head.width if lookahead.hidden_head else 0,
        Keys.BASE_NAME: base.name,
        Keys.BASE_VOCABULARY: base.n_vocab,
        Keys.BASE_TOKENIZER: base.tokenizer_sha256,
        Keys.BASE_EMBEDDINGS: base.embeddings_sha256,
        Keys.TRAINING: lookahead.training,
    }
    if len(lookahead.candidates):
        metadata[Keys.CANDIDATES] = lookahead.candidates.astype(np.int32)
    if lookahead.acceptance:
        metadata[Keys.ACCEPTANCE] = np.array(lookahead.acceptance, np.float32)
    return metadata


# -- reading ------------------------------------------------------------------------------------------


def read_lookahead(path: str | Path) -> Lookahead:
    """Read the lookahead in ``path``, a sidecar or a merged model. Raises LookaheadError if it is incomplete
    or its parts do not fit, ModelError if the file is damaged or no GGUF file."""
    with GgufFile(path) as file:
        if file.get(Keys.VERSION) is None:
            raise LookaheadError(f"{path} is a GGUF file but holds no lookahead")
        if file.get(Keys.VERSION) != FORMAT_VERSION:
            raise LookaheadError(
                f"{path} has format version {file.get(Keys.VERSION)}; this program reads {FORMAT_VERSION}"
            )
        width = _size(file, Keys.WIDTH, MAX_WIDTH)
        prefix = _size(file, Keys.PREFIX, MAX_COUNT)
        acceptance, training = file.get(Keys.ACCEPTANCE), file.get(Keys.TRAINING)
        candidates = file.get(Keys.CANDIDATES)
        try:
            return Lookahead(
                embeddings=_numbers(file, WEIGHT, (_size(file, Keys.COUNT, MAX_COUNT), width)),
                base=_base(file),
                acceptance=tuple(acceptance.tolist()) if isinstance(acceptance, np.ndarray) else (),
                training=training if isinstance(training, str) else "",
                prefix=_numbers(file, PREFIX, (prefix, width)) if prefix else None,
                head=_head(file, HEAD, Keys.HEAD, width, _size(file, Keys.HEAD_INPUTS, MAX_INPUTS) or 2),
                hidden_head=_head(file, HIDDEN_HEAD, Keys.HIDDEN_HEAD, width, 2),
                candidates=candidates if isinstance(candidates, np.ndarray) else np.zeros(0, np.int32),
            )
        except LookaheadError as error:
            message = str(error)
            raise LookaheadError(message if str(path) in message else f"{path}: {message}") from error


def _size(file: GgufFile, key: str, maximum: int) -> int:
    size = 0 if key in Keys.OPTIONAL and file.get(key) is None else _required(file, key, int)
    if not 0 <= size <= maximum:
        raise LookaheadError(f"{file.path}: {key} is {size}; it must be from 0 to {maximum}")
    return size


def _head(file: GgufFile, name: str, key: str, n_embd: int, inputs: int) -> HeadWeights | None:
    width = _size(file, key, MAX_WIDTH)
    if not width:
        return None
    n_input = inputs * n_embd
    shapes = {"gate": (width, n_input), "up": (width, n_input), "down": (n_embd, width)}
    matrices = {part: _matrix(file, f"{name}.{part}.weight", shape) for part, shape in shapes.items()}
    return HeadWeights(**matrices)


def _numbers(file: GgufFile, name: str, shape: tuple[int, int]) -> Floats:
    return _matrix(file, name, shape).numbers() if shape[0] else np.zeros(shape, np.float32)


def _matrix(file: GgufFile, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
    """Return the matrix ``name``: a tensor in a sidecar; in a merged model a key, whose array holds float32
    numbers or the bytes of Q8_0."""
    tensor, array = file.tensors.get(name), file.get(name)
    if tensor:
        if tensor.shape != shape:
            raise LookaheadError(
                f"{file.path}: {name} is {' × '.join(map(str, tensor.shape))}, "
                f"but the file says {shape[0]} × {shape[1]}"
            )
        if tensor.type_name not in _TYPES:
            raise LookaheadError(f"{file.path}: {name} is {tensor.type_name}; F32 and Q8_0 can be read")
        return QuantizedMatrix.map_tensor(file.path, tensor)
    for type_name, dtype in _TYPES.items():
        if isinstance(array, np.ndarray) and array.dtype == dtype:
            return _matrix_of_key(file, name, array.view(np.uint8), type_name, shape)
    raise LookaheadError(f"{file.path} has no {name}")


def _matrix_of_key(
    file: GgufFile, name: str, data: npt.NDArray[np.uint8], type_name: str, shape: tuple[int, int]
) -> QuantizedMatrix:
    try:
        rows = data.reshape(shape[0], bytes_per_row(type_name, shape[1]))
        return QuantizedMatrix(rows, type_name, shape[1])
    except (ValueError, ModelError) as error:
        raise LookaheadError(f"{file.path}: {name} does not hold {shape[0]} × {shape[1]} numbers") from error


# -- models -------------------------------------------------------------------------------------------


def read_base(model: str | Path | GgufFile) -> Base:
    """Return the identity of the model in a file; for a merged file, of the model before merging. Raises
    ModelError, LookaheadError."""
    with open_gguf(model) as file:
        if _is_merged(file):
            return _base(file)
        check_is_model(file)
        architecture = _required(file, Keys.ARCHITECTURE, str)
        tokens = file.get(Keys.TOKENS)
        if not isinstance(tokens, list):  # the file has no tokenizer, only the number of tokens
            size = _required(file, f"{architecture}.vocab_size", int)
            tokens = []
            digest = hashlib.sha256(b"%d tokens without text" % size)
        else:
            size, digest = len(tokens), hashlib.sha256(b"\n".join(tokens))
        name, embeddings = file.get(Keys.NAME), TokenEmbeddings(file)
    return Base(
        architecture=architecture,
        name=name if isinstance(name, str) else readable(file.path.stem),
        n_embd=embeddings.width,
        n_vocab=size,
        tokenizer_sha256=digest.hexdigest(),
        embeddings_sha256=embeddings.fingerprint(),
    )


def is_merged(model: str | Path | GgufFile) -> bool:
    """Return whether a file is a model with a lookahead merged into it. Raises ModelError."""
    with open_gguf(model) as file:
        return _is_merged(file)


def _is_merged(file: GgufFile) -> bool:
    return file.get(Keys.VERSION) is not None and file.get(Keys.TYPE) != "adapter"


def _base(file: GgufFile) -> Base:
    return Base(
        architecture=_required(file, Keys.ARCHITECTURE, str),
        name=_required(file, Keys.BASE_NAME, str),
        n_embd=_required(file, Keys.WIDTH, int),
        n_vocab=_required(file, Keys.BASE_VOCABULARY, int),
        tokenizer_sha256=_required(file, Keys.BASE_TOKENIZER, str),
        embeddings_sha256=_required(file, Keys.BASE_EMBEDDINGS, str),
    )


def _required(file: GgufFile, key: str, kind: type[T]) -> T:
    value: Any = file.get(key)
    if value is None:
        raise LookaheadError(f"{file.path} lacks the key {key}")
    if not isinstance(value, kind):
        raise LookaheadError(f"{file.path}: {key} is {value!r}, not of type {kind.__name__}")
    return value
