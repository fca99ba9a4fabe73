"""The draft head computed by ggml: its own kernels, on rows of the model's output matrix as they are stored.

It runs between two forward passes, on the CPU or on a GPU, and shares nothing with a context.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .compute import compute
from .device_matrix import DeviceMatrix, new_tensor, write
from .devices import cpu_device
from .errors import LibraryError
from .library import GGML_TYPES, arena_params, ggml
from .quantized_matrix import Floats, QuantizedMatrix

_F32 = GGML_TYPES["f32"]
_EPSILON = 1e-6


@dataclass(frozen=True)
class HeadWeights:
    """``gate`` and ``up`` (width, inputs · n_embd), ``down`` (n_embd, width)."""

    gate: QuantizedMatrix
    up: QuantizedMatrix
    down: QuantizedMatrix

    @property
    def width(self) -> int:
        return self.gate.shape[0]

    @property
    def inputs(self) -> int:
        """2 where it is told a state and an embedding, 3 where the state before these too."""
        return self.gate.shape[1] // self.down.shape[0]

    @classmethod
    def of(cls, gate: Floats, up: Floats, down: Floats) -> HeadWeights:
        """Float32 matrices in eight bits: a draft is only a guess, and half of F16 is to be read for it."""
        return cls(*(QuantizedMatrix.of(matrix) for matrix in (gate, up, down)))


class _Tensors:
    """Tensors of one of ggml's devices, and the memory for them."""

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
        """A vector of ``count`` float32 numbers."""
        return new_tensor(self.arena, _F32, 1, count)

    def apply(self, name: str, *given: float) -> int:
        """What the operation ``name`` makes of tensors and numbers. Raises LibraryError if the device lacks
        it."""
        made = int(ggml(name)(self.arena, *given))
        if not ggml("ggml_backend_dev_supports_op")(self._device, made):
            raise LibraryError(f"this device has no {name}")
        return made

    def allocate(self) -> None:
        """Memory for all there are. Raises LibraryError."""
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
    """The rows of a model's output matrix for some candidates, in four bits; heads share them. Close it
    behind these, or use it as a context manager."""

    def __init__(self, output: QuantizedMatrix, candidates: npt.NDArray[np.int32], device: int) -> None:
        """``output``: (n_vocab, n_embd); ``candidates``: (m,) token ids; ``device``: ggml's handle. Raises
        LibraryError."""
        super().__init__(output.in_four_bits(candidates), device)
        output.let_go()

    def __enter__(self) -> OutputRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DraftHead:
    """From what is known of the state behind a token, h, its embedding e and the state b before it to the
    state behind it, and the logits of candidates there:

        h' = h + down · (silu(gate · x) * (up · x)),  x = [rms(h); rms(e); rms(b)],
        logits = output[candidates] · h'

    A head of two inputs is not told b. Close it, or use it as a context manager. Not thread-safe.
    """

    def __init__(self, weights: HeadWeights, output: OutputRows, *, threads: int) -> None:
        """On the device of ``output``; ``threads`` are for the CPU. Raises LibraryError."""
        self._count, self._width = output.shape
        self._tensors = tensors = _Tensors(output.device, threads)
        self._inputs = [tensors.new(self._width) for _ in range(weights.inputs)]
        stored = weights.gate, weights.up, weights.down
        # between two passes all of it comes from memory anew: in half the bytes it drafts as well
        self._matrices = [DeviceMatrix(matrix.in_four_bits(), output.device) for matrix in stored]
        self._next = self._forward(*(matrix.tensor for matrix in self._matrices))
        self._logits = tensors.apply("ggml_mul_mat", output.tensor, self._next)
        self._graph = ggml("ggml_new_graph")(tensors.arena)
        ggml("ggml_build_forward_expand")(self._graph, self._logits)
        tensors.allocate()
        for matrix in stored:
            matrix.let_go()

    def step(self, state: Floats, embedding: Floats, before: Floats) -> tuple[Floats, Floats]:
        """(n_embd,) h, e and b → the (n_embd,) state behind the token and the (m,) logits of the candidates,
        float32."""
        for tensor, given in zip(self._inputs, (state, embedding, before), strict=False):
            write(tensor, np.ascontiguousarray(given, np.float32))
        if compute(lambda: ggml("ggml_backend_graph_compute")(self._tensors.backend, self._graph)):
            raise LibraryError("ggml could not compute the draft head")
        return _read(self._next, self._width), _read(self._logits, self._count)

    def _forward(self, gate: int, up: int, down: int) -> int:
        apply = self._tensors.apply
        norms = [apply("ggml_rms_norm", tensor, _EPSILON) for tensor in self._inputs]
        x = functools.reduce(lambda one, other: apply("ggml_concat", one, other, 0), norms)
        opened = apply("ggml_swiglu_split", *(apply("ggml_mul_mat", side, x) for side in (gate, up)))
        return apply("ggml_add", self._inputs[0], apply("ggml_mul_mat", down, opened))

    def close(self) -> None:
        """Free its memory; safe to call twice."""
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
