"""The draft head, computed by ggml with quantized rows of the model's output matrix.

It runs between two forward passes, on the CPU or on a GPU, and shares nothing with a context.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .compute import compute
from .device_matrix import DeviceMatrix, new_tensor, write_tensor
from .devices import cpu_device
from .errors import LibraryError
from .library import GGML_TYPES, arena_params, ggml
from .quantized_matrix import Floats, QuantizedMatrix

_F32 = GGML_TYPES["f32"]
_EPSILON = 1e-6


@dataclass(frozen=True)
class HeadWeights:
    """The weights of a draft head: ``gate`` and ``up`` (width, inputs · n_embd), ``down`` (n_embd, width)."""

    gate: QuantizedMatrix
    up: QuantizedMatrix
    down: QuantizedMatrix

    @property
    def width(self) -> int:
        return self.gate.shape[0]

    @property
    def inputs(self) -> int:
        """The number of input vectors: 2 for a state and an embedding, 3 with the previous state."""
        return self.gate.shape[1] // self.down.shape[0]

    @classmethod
    def quantize(cls, gate: Floats, up: Floats, down: Floats) -> HeadWeights:
        """Return float32 matrices in Q8_0, which halves the memory to read of F16. Drafts may be inexact."""
        return cls(*(QuantizedMatrix.quantize(matrix) for matrix in (gate, up, down)))


class _Tensors:
    """The tensors of a graph on one of ggml's devices, and their memory."""

    def __init__(self, device: int, threads: int) -> None:
        self.arena = ggml("ggml_init")(arena_params(64 * ggml("ggml_tensor_overhead")() + (1 << 20)))
        self._device = device
        self.backend = ggml("ggml_backend_dev_init")(device, None)
        if not self.backend:
            ggml("ggml_free")(self.arena)
            raise LibraryError("this device cannot compute")
        if device == cpu_device():
            ggml("ggml_backend_cpu_set_n_threads")(self.backend, threads)
        self._buffer = None

    def new(self, count: int) -> int:
        """Create a vector of ``count`` float32 numbers."""
        return new_tensor(self.arena, _F32, 1, count)

    def apply(self, name: str, *operands: float) -> int:
        """Add the operation ``name`` on tensors and numbers, and return its result tensor. Raises
        LibraryError if the device does not support it."""
        result = int(ggml(name)(self.arena, *operands))
        if not ggml("ggml_backend_dev_supports_op")(self._device, result):
            raise LibraryError(f"this device does not support {name}")
        return result

    def allocate(self) -> None:
        """Allocate memory for all tensors. Raises LibraryError."""
        self._buffer = ggml("ggml_backend_alloc_ctx_tensors")(self.arena, self.backend)
        if not self._buffer:
            raise LibraryError("there is no memory for the draft head")

    def close(self) -> None:
        if self.backend:
            ggml("ggml_backend_buffer_free")(self._buffer)
            ggml("ggml_backend_free")(self.backend)
            ggml("ggml_free")(self.arena)
            self.backend = None


class OutputRows(DeviceMatrix):
    """The rows of a model's output matrix for the candidate tokens, in Q4_0. Heads share them. Close the
    heads first, then this, or use it as a context manager."""

    def __init__(self, output: QuantizedMatrix, candidates: npt.NDArray[np.int32], device: int) -> None:
        """``output``: (n_vocab, n_embd); ``candidates``: (m,) token ids; ``device``: ggml's handle. Raises
        LibraryError."""
        super().__init__(output.to_four_bits(candidates), device)
        output.release_pages()

    def __enter__(self) -> OutputRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DraftHead:
    """Predict the hidden state h' after a token, and the logits of the candidates for the next token, from an
    estimate h of that state, the token's embedding e and the previous state b:

        h' = h + down · (silu(gate · x) * (up · x)),  x = [rms(h); rms(e); rms(b)],
        logits = output[candidates] · h'

    A head of two inputs does not use b. Close it, or use it as a context manager. Not thread-safe.
    """

    def __init__(self, weights: HeadWeights, output: OutputRows, *, threads: int) -> None:
        """Build the head on the device of ``output``. ``threads``: used on the CPU. Raises LibraryError."""
        self._count, self._width = output.shape
        self._tensors = tensors = _Tensors(output.device, threads)
        self._inputs = [tensors.new(self._width) for _ in range(weights.inputs)]
        matrices = weights.gate, weights.up, weights.down
        # between two passes all of it is read from memory again: Q4_0 takes half the time and drafts as well
        self._matrices = [DeviceMatrix(matrix.to_four_bits(), output.device) for matrix in matrices]
        self._next = self._forward(*(matrix.tensor for matrix in self._matrices))
        self._logits = tensors.apply("ggml_mul_mat", output.tensor, self._next)
        self._graph = ggml("ggml_new_graph")(tensors.arena)
        ggml("ggml_build_forward_expand")(self._graph, self._logits)
        tensors.allocate()
        for matrix in matrices:
            matrix.release_pages()

    def step(self, state: Floats, embedding: Floats, before: Floats) -> tuple[Floats, Floats]:
        """Return the (n_embd,) state after the token and the (m,) logits of the candidates, float32.

        ``state``, ``embedding``, ``before``: (n_embd,) h, e and b. Raises LibraryError.
        """
        for tensor, vector in zip(self._inputs, (state, embedding, before), strict=False):
            write_tensor(tensor, np.ascontiguousarray(vector, np.float32))
        if compute(lambda: ggml("ggml_backend_graph_compute")(self._tensors.backend, self._graph)):
            raise LibraryError("ggml could not compute the draft head")
        return _read(self._next, self._width), _read(self._logits, self._count)

    def _forward(self, gate: int, up: int, down: int) -> int:
        apply = self._tensors.apply
        norms = [apply("ggml_rms_norm", tensor, _EPSILON) for tensor in self._inputs]
        x = functools.reduce(lambda a, b: apply("ggml_concat", a, b, 0), norms)
        gated = apply("ggml_swiglu_split", *(apply("ggml_mul_mat", matrix, x) for matrix in (gate, up)))
        return apply("ggml_add", self._inputs[0], apply("ggml_mul_mat", down, gated))

    def close(self) -> None:
        """Free the memory; safe to call twice."""
        self._tensors.close()
        for matrix in self._matrices:
            matrix.close()

    def __enter__(self) -> DraftHead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(tensor: int, count: int) -> Floats:
    out = np.empty(count, np.float32)
    ggml("ggml_backend_tensor_get")(tensor, ctypes.c_void_p(out.ctypes.data), 0, out.nbytes)
    return out
