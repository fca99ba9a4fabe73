"""The draft head computed by ggml: its own kernels, on rows of the model's output matrix as they are stored.

It runs on the CPU, between two forward passes, and shares nothing with a context.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .embeddings import TOKEN_EMBEDDINGS
from .errors import LibraryError, ModelError
from .gguf_file import GgufFile, type_traits
from .library import GGML_TYPES, arena_params, ggml
from .stored import Floats, StoredMatrix, decode_rows

OUTPUT_HEAD = "output.weight"
_F32 = GGML_TYPES["f32"]
_EPSILON = 1e-6


@dataclass(frozen=True)
class HeadWeights:
    """``gate`` and ``up`` (width, 2 · n_embd), ``down`` (n_embd, width)."""

    gate: StoredMatrix
    up: StoredMatrix
    down: StoredMatrix

    @classmethod
    def of(cls, gate: Floats, up: Floats, down: Floats) -> HeadWeights:
        """Float32 matrices in eight bits: a draft is only a guess, and half of F16 is to be read for it."""
        return cls(*(StoredMatrix.of(matrix) for matrix in (gate, up, down)))


class DraftHead:
    """From the state h before a token and the token's embedding e to the state behind it, and the logits of
    ``candidates`` there:

        h' = h + down · (silu(gate · x) * (up · x)),  x = [rms(h); rms(e)];  logits = output[candidates] · h'

    Close it, or use it as a context manager. Not thread-safe.
    """

    def __init__(
        self, model: Path, weights: HeadWeights, candidates: npt.NDArray[np.int32], *, threads: int
    ) -> None:
        """``candidates``: (m,) token ids, whose rows of the output matrix of ``model`` are read. Raises
        ModelError, LibraryError."""
        width = weights.down.shape[0]
        code, rows = _stored_output_rows(model, candidates)
        self._arena = ggml("ggml_init")(arena_params(64 * ggml("ggml_tensor_overhead")() + (1 << 20)))
        self._backend = ggml("ggml_backend_cpu_init")()
        ggml("ggml_backend_cpu_set_n_threads")(self._backend, threads)
        self._state, self._embedding = self._tensor(_F32, width, 1), self._tensor(_F32, width, 1)
        stored = weights.gate, weights.up, weights.down
        matrices = [self._tensor(GGML_TYPES[m.type_name], *reversed(m.shape)) for m in stored]
        output = self._tensor(code, width, len(candidates))
        self._next = self._forward(*matrices)
        self._logits = self._op("ggml_mul_mat", output, self._next)
        self._graph = ggml("ggml_new_graph")(self._arena)
        ggml("ggml_build_forward_expand")(self._graph, self._logits)
        self._buffer = ggml("ggml_backend_alloc_ctx_tensors")(self._arena, self._backend)
        if not self._buffer:
            raise LibraryError("there is no memory for the draft head")
        for tensor, data in zip([*matrices, output], [*(m.data for m in stored), rows], strict=True):
            _write(tensor, data)
        self._width, self._count = width, len(candidates)

    def step(self, state: Floats, embedding: Floats) -> tuple[Floats, Floats]:
        """(n_embd,) ``state`` before a token and its (n_embd,) ``embedding`` → the (n_embd,) state behind it
        and the (m,) logits of the candidates, float32."""
        _write(self._state, np.ascontiguousarray(state, np.float32))
        _write(self._embedding, np.ascontiguousarray(embedding, np.float32))
        if ggml("ggml_backend_graph_compute")(self._backend, self._graph):
            raise LibraryError("ggml could not compute the draft head")
        return _read(self._next, self._width), _read(self._logits, self._count)

    def _forward(self, gate: int, up: int, down: int) -> int:
        norms = [
            ggml("ggml_rms_norm")(self._arena, tensor, _EPSILON) for tensor in (self._state, self._embedding)
        ]
        x = ggml("ggml_concat")(self._arena, *norms, 0)
        opened = self._op("ggml_swiglu_split", *(self._op("ggml_mul_mat", side, x) for side in (gate, up)))
        return self._op("ggml_add", self._state, self._op("ggml_mul_mat", down, opened))

    def _op(self, name: str, one: int, other: int) -> int:
        return int(ggml(name)(self._arena, one, other))

    def _tensor(self, code: int, width: int, height: int) -> int:
        return int(ggml("ggml_new_tensor")(self._arena, code, 2, (ctypes.c_int64 * 2)(width, height)))

    def close(self) -> None:
        """Free its memory; safe to call twice."""
        if self._backend:
            ggml("ggml_backend_buffer_free")(self._buffer)
            ggml("ggml_backend_free")(self._backend)
            ggml("ggml_free")(self._arena)
            self._backend = None

    def __enter__(self) -> DraftHead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def output_rows(model: Path, tokens: npt.NDArray[np.int32]) -> Floats:
    """The rows of ``tokens`` (m,) in the output matrix of ``model``, (m, n_embd). Raises ModelError."""
    code, stored = _stored_output_rows(model, tokens)
    name = type_traits(code).name.decode().lower()
    width = stored.shape[1] // type_traits(code).type_size * type_traits(code).block_size
    return decode_rows(stored, name, width)


def _stored_output_rows(model: Path, tokens: npt.NDArray[np.int32]) -> tuple[int, npt.NDArray[np.uint8]]:
    """Type and bytes of the rows of ``tokens`` in the output matrix (a tied model's embedding matrix)."""
    with GgufFile(model) as file:
        tensor = file.tensors.get(OUTPUT_HEAD) or file.tensors.get(TOKEN_EMBEDDINGS)
    if tensor is None:
        raise ModelError(f"{model} holds no {OUTPUT_HEAD}; is it part of a split model?")
    count = tensor.shape[0]
    rows = np.memmap(model, np.uint8, "r", tensor.offset, (count, tensor.size // count))
    return tensor.code, rows[tokens]


def _write(tensor: int, data: npt.NDArray[np.generic]) -> None:
    ggml("ggml_backend_tensor_set")(tensor, ctypes.c_void_p(data.ctypes.data), 0, data.nbytes)


def _read(tensor: int, count: int) -> Floats:
    out = np.empty(count, np.float32)
    ggml("ggml_backend_tensor_get")(tensor, ctypes.c_void_p(out.ctypes.data), 0, out.nbytes)
    return out
