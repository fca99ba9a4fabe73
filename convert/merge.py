"""Merge a model and its lookahead into one file, which other llama.cpp programs run as the plain model.

The vocabulary grows by *lookahead tokens* of the token type "unused", so that no text is tokenized to one.
Their rows in the embedding matrix are the lookahead embeddings, in the matrix's type. Their rows in the
output head are copies of the row of a token that the model never uses: equal logits, and the lower id wins. A
tied model gets a separate output head for this.

The exact embeddings are in the metadata, with the keys of docs/format.md: llama.cpp refuses unknown tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pass_edge.drafting.lookahead import Base, Lookahead
from pass_edge.drafting.lookahead_file import Keys, is_merged, merged_metadata, read_base, read_lookahead
from pass_edge.native.embeddings import OUTPUT_HEAD, TOKEN_EMBEDDINGS, TokenEmbeddings
from pass_edge.native.errors import LookaheadError, ModelError
from pass_edge.native.gguf_file import GgufFile, NewTensor, Tensor, Value, write_gguf
from pass_edge.native.library import GGML_TYPES
from pass_edge.native.model import check_loads
from pass_edge.native.output_file import atomic_write, check_output_path
from pass_edge.native.quantized_matrix import encode_rows

OUTPUT_BIAS = "output.bias"
# Repacked kernels take 8 or 16 rows at a time, and matrices of other sizes get slower kernels that round
# differently.
# So rows are added in multiples of 16: the rows before them keep their kernel, and so their bits.
_ROW_MULTIPLE = 16
_TYPES, _SCORES = "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # `llama.h`, `enum llama_token_type`
_WORST_SCORE = -1e4
_CHUNK = 1024  # rows encoded at a time


def merge(
    model: str | Path,
    lookahead: str | Path,
    output: str | Path,
    *,
    embedding_type: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Write ``model`` merged with ``lookahead`` to ``output``, and return warnings. The pieces of a split
    model become one file.

    All tensors but the embedding matrix and the output head are copied byte for byte. ``embedding_type``:
    another type for the embedding matrix, such as ``"f16"``. ``progress``: called with the number of tensors
    written and their total. Raises LookaheadError, ModelError, OutputError.
    """
    check_output_path(output, overwrite, model, lookahead)
    if is_merged(model):
        raise LookaheadError(f"{model} has its lookahead inside already; merge into the model it came from")
    sidecar = read_lookahead(lookahead)
    warnings = sidecar.matches(read_base(model))
    with GgufFile(model) as file:
        added = -(-len(sidecar) // _ROW_MULTIPLE) * _ROW_MULTIPLE
        metadata = _vocabulary(file, sidecar.base, added) | merged_metadata(sidecar)
        tensors = _tensors(file, sidecar, added, embedding_type)
        with atomic_write(output) as unfinished:
            write_gguf(unfinished, metadata, tensors, like=file, progress=progress)
            check_loads(unfinished)
    return warnings


def _vocabulary(file: GgufFile, base: Base, added: int) -> dict[str, Value]:
    """Return the metadata of the vocabulary, with the new tokens at its end."""
    metadata: dict[str, Value] = {}
    size_key = f"{base.architecture}.vocab_size"
    if file.get(size_key) is not None:
        metadata[size_key] = base.n_vocab + added
    tokens = file.get(Keys.TOKENS)
    if isinstance(tokens, list):
        new = [b"<|pass_lookahead_%d|>" % i for i in range(added)]
        if taken := set(new) & set(tokens):
            raise ModelError(f"{file.path} has tokens named {min(taken).decode()} and the like already")
        metadata[Keys.TOKENS] = tokens + new
        metadata[_TYPES] = np.append(_token_types(file, base), np.full(added, _UNUSED, np.int32))
        scores = file.get(_SCORES)
        if isinstance(scores, np.ndarray):
            metadata[_SCORES] = np.append(scores, np.full(added, _WORST_SCORE, scores.dtype))
    return metadata


def _token_types(file: GgufFile, base: Base) -> npt.NDArray[np.int32]:
    types = file.get(_TYPES)
    if types is None:
        return np.full(base.n_vocab, _NORMAL, np.int32)
    if not isinstance(types, np.ndarray) or len(types) != base.n_vocab:
        raise ModelError(f"{file.path} has {base.n_vocab} tokens, but not as many token types")
    return types.astype(np.int32)


def _tensors(file: GgufFile, lookahead: Lookahead, added: int, embedding_type: str | None) -> list[NewTensor]:
    base = lookahead.base
    matrix = file.tensors[TOKEN_EMBEDDINGS]
    head = file.tensors.get(OUTPUT_HEAD, matrix)
    bias = file.tensors.get(OUTPUT_BIAS)
    for tensor in (matrix, head):
        if tensor.shape != (base.n_vocab, tensor.shape[-1]):
            raise ModelError(
                f"{file.path}: {tensor.name} does not have a row for each of {base.n_vocab} tokens"
            )
    row = _unused_token(file, base)
    tensors = [
        NewTensor(tensor.name, tensor.code, tensor.shape, partial(file.chunks, tensor))
        for tensor in file.tensors.values()
        if tensor.name not in (TOKEN_EMBEDDINGS, OUTPUT_HEAD, OUTPUT_BIAS)
    ]
    tensors.append(_embedding_matrix(file, lookahead, added, row, embedding_type or matrix.type_name))
    shape = (base.n_vocab + added, head.shape[-1])
    tensors.append(NewTensor(OUTPUT_HEAD, head.code, shape, partial(_extended, file, head, row, added)))
    if bias:
        column = replace(bias, shape=(base.n_vocab, 1))
        extended = partial(_extended, file, column, row, added)
        tensors.append(NewTensor(bias.name, bias.code, (1, base.n_vocab + added), extended))
    return tensors


def _unused_token(file: GgufFile, base: Base) -> int:
    """Return a token that the model was trained not to generate: the last unused token, else the last control
    token without a role, else the last token."""
    types = _token_types(file, base)
    keys = ("bos", "eos", "eot", "eom", "unknown", "padding", "separator", "mask")
    roles = [file.get(f"tokenizer.ggml.{key}_token_id") for key in keys]
    for token_type in (_UNUSED, _CONTROL):
        candidates = [token for token in np.flatnonzero(types == token_type).tolist() if token not in roles]
        if candidates:
            return int(candidates[-1])
    return base.n_vocab - 1


def _extended(file: GgufFile, tensor: Tensor, row: int, added: int) -> Iterator[Any]:
    """Yield the bytes of ``tensor``, then those of its ``row``, ``added`` times."""
    yield from file.chunks(tensor)
    size = tensor.size // tensor.shape[0]
    copied = replace(tensor, offset=tensor.offset + row * size, size=size)
    yield b"".join(bytes(chunk) for chunk in file.chunks(copied)) * added


def _embedding_matrix(
    file: GgufFile, lookahead: Lookahead, added: int, row: int, type_name: str
) -> NewTensor:
    matrix, base = file.tensors[TOKEN_EMBEDDINGS], lookahead.base
    own = TokenEmbeddings(file)
    rows = np.repeat(own.rows(np.array([row], np.int32)), added, axis=0)
    rows[: len(lookahead)] = lookahead.embeddings
    try:
        new_rows = encode_rows(rows / own.scale, type_name)
    except ModelError as error:
        raise ModelError(f"{error}. Store the matrix in another type with --embedding-type") from error

    def data() -> Iterator[Any]:
        if type_name.lower() == matrix.type_name.lower():
            yield from file.chunks(matrix)
        else:
            for start in range(0, base.n_vocab, _CHUNK):
                tokens = np.arange(start, min(start + _CHUNK, base.n_vocab), dtype=np.int32)
                yield encode_rows(own.rows(tokens) / own.scale, type_name)
        yield new_rows

    shape = (base.n_vocab + added, matrix.shape[-1])
    return NewTensor(matrix.name, GGML_TYPES[type_name.lower()], shape, data)
