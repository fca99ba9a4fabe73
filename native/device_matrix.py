"""Weight matrices in a device's memory. On the CPU they are repacked for the fastest kernels."""

from __future__ import annotations

import ctypes
import itertools
from functools import cache

import numpy as np
import numpy.typing as npt

from .devices import cpu_device
from .errors import LibraryError
from .library import GGML_TYPES, arena_params, ggml
from .quantized_matrix import QuantizedMatrix

_GET_BUFFER_TYPES = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


class DeviceMatrix:
    """A copy of a matrix on one of ggml's devices. Close the graphs that use it first.

    Attributes: ``tensor``: ggml's pointer; ``shape``: (rows, width); ``device``: ggml's handle.
    """

    def __init__(self, matrix: QuantizedMatrix, device: int) -> None:
        """``device``: ggml's handle. Raises LibraryError if the device lacks memory or a kernel for it."""
        self.shape = matrix.shape
        self.device = device
        self._code = GGML_TYPES[matrix.type_name.lower()]
        self._arena = self._buffer = None
        types = [ggml("ggml_backend_dev_buffer_type")(device)]
        if device == cpu_device():
            types = [*repacking_buffer_types(), *types]
        if not any(map(self._allocate, types)):
            raise LibraryError("there is no memory for the draft head")
        write_tensor(self.tensor, matrix.data)

    def _allocate(self, buffer_type: int) -> bool:
        """Allocate the tensor in a buffer of this type; return whether its kernels can multiply by it."""
        self._arena = ggml("ggml_init")(arena_params(4 * ggml("ggml_tensor_overhead")()))
        self.tensor = new_tensor(self._arena, self._code, *self.shape)
        self._buffer = ggml("ggml_backend_alloc_ctx_tensors_from_buft")(self._arena, buffer_type)
        if not self._buffer or not self._can_multiply():
            self.close()
        return self._arena is not None

    def _can_multiply(self) -> bool:
        vector = new_tensor(self._arena, GGML_TYPES["f32"], 1, self.shape[1])
        product = ggml("ggml_mul_mat")(self._arena, self.tensor, vector)
        return bool(ggml("ggml_backend_dev_supports_op")(self.device, product))

    def close(self) -> None:
        """Free the memory; safe to call twice."""
        if self._arena:
            ggml("ggml_backend_buffer_free")(self._buffer)
            ggml("ggml_free")(self._arena)
            self._arena = self._buffer = None


def new_tensor(arena: int | None, code: int, rows: int, width: int) -> int:
    """Create a (rows, width) tensor of ggml's type ``code`` in ``arena``. Its data is not allocated yet."""
    return int(ggml("ggml_new_tensor")(arena, code, 2, (ctypes.c_int64 * 2)(width, rows)))


def write_tensor(tensor: int, data: npt.NDArray[np.generic]) -> None:
    """Copy ``data``, encoded in the tensor's type, to ``tensor``."""
    ggml("ggml_backend_tensor_set")(tensor, ctypes.c_void_p(data.ctypes.data), 0, data.nbytes)


@cache
def repacking_buffer_types() -> tuple[int, ...]:
    """Return the CPU's buffer types that repack matrices as they are written, the fastest first: ours, if
    this build has our kernels, then llama.cpp's."""
    backend = ggml("ggml_backend_dev_backend_reg")(cpu_device())
    function = ggml("ggml_backend_reg_get_proc_address")(backend, b"ggml_backend_dev_get_extra_bufts")
    if not function:
        return ()
    types = _GET_BUFFER_TYPES(function)(cpu_device())
    return tuple(itertools.takewhile(bool, types))  # the list ends with a null pointer
