"""Matrices in ggml's tensor types, converted to and from float32 by ggml's own functions."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .gguf_file import Tensor, type_traits
from .library import GGML_TYPES, ggml

Floats = npt.NDArray[np.float32]
_EIGHT_BITS, _FOUR_BITS = "q8_0", "q4_0"
_CHUNK = 64  # rows converted at a time: malloc keeps the peak, and float32 takes four bytes a number


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix with rows of ``width`` numbers: ``data`` (rows, bytes per row) uint8, in ggml's type
    ``type_name``. A matrix in a file is memory-mapped: only the rows that are read take memory."""

    data: npt.NDArray[np.uint8]
    type_name: str
    width: int

    @classmethod
    def quantize(cls, numbers: Floats) -> QuantizedMatrix:
        """Return ``numbers`` (rows, width) in Q8_0, or in F32 if blocks of 32 do not divide the width."""
        width = numbers.shape[1]
        block = type_traits(GGML_TYPES[_EIGHT_BITS]).block_size
        type_name = "f32" if width % block else _EIGHT_BITS
        return cls(encode_rows(numbers, type_name), type_name, width)

    @classmethod
    def map_tensor(cls, path: Path, tensor: Tensor) -> QuantizedMatrix:
        """Map the matrix ``tensor`` of the GGUF file ``path``."""
        count, width = tensor.shape
        data = np.memmap(path, np.uint8, "r", tensor.offset, (count, tensor.size // count))
        return cls(data, tensor.type_name, width)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.data), self.width

    def rows(self, which: npt.NDArray[np.int32]) -> QuantizedMatrix:
        """Return a copy of the rows ``which`` (m,)."""
        return QuantizedMatrix(np.asarray(self.data[which]), self.type_name, self.width)

    def to_four_bits(self, which: npt.NDArray[np.int32] | None = None) -> QuantizedMatrix:
        """Return the rows ``which`` (m,), or all, in Q4_0. They stay as they are if they are no larger than
        that already, or if blocks of 32 do not divide the width."""
        block = type_traits(GGML_TYPES[_FOUR_BITS])
        if self.width % block.block_size or self.data.shape[1] <= bytes_per_row(_FOUR_BITS, self.width):
            return self if which is None else self.rows(which)
        rows = len(self.data if which is None else which)
        # in pages of their own, which return to the system when the matrix is freed
        pages = mmap.mmap(-1, rows * bytes_per_row(_FOUR_BITS, self.width))
        encoded = np.frombuffer(pages, np.uint8).reshape(rows, -1)
        for start, numbers in self.chunks(which):
            encoded[start : start + len(numbers)] = encode_rows(numbers, _FOUR_BITS)
        return QuantizedMatrix(encoded, _FOUR_BITS, self.width)

    def chunks(self, which: npt.NDArray[np.int32] | None = None) -> Iterator[tuple[int, Floats]]:
        """Yield the rows ``which``, or all, in chunks: the index of the first, (n, width) float32 numbers."""
        for start in range(0, len(self.data if which is None else which), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            rows = self.data[chunk if which is None else which[chunk]]
            yield start, decode_rows(rows, self.type_name, self.width)

    def numbers(self) -> Floats:
        """Return the whole matrix as (rows, width) float32."""
        return decode_rows(self.data, self.type_name, self.width)

    def release_pages(self) -> None:
        """Release the memory of a mapped matrix. Rows that are read again are loaded from the file again."""
        mapped = getattr(self.data, "_mmap", None)
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def bytes_per_row(type_name: str, width: int) -> int:
    """Return the bytes of a row of ``width`` numbers. Raises ModelError if blocks do not divide it."""
    traits = type_traits(_code(type_name))
    if width % traits.block_size:
        raise ModelError(f"{type_name} takes rows of a multiple of {traits.block_size}, not of {width}")
    return width // traits.block_size * traits.type_size


def encode_rows(rows: Floats, type_name: str) -> npt.NDArray[np.uint8]:
    """Encode ``rows`` (n, width) in ggml's tensor type ``type_name``: (n, bytes per row) uint8.
    Raises ModelError for types without an encoder, or whose blocks do not divide the width."""
    count, width = rows.shape
    source = np.ascontiguousarray(rows, np.float32)
    out = np.empty((count, bytes_per_row(type_name, width)), np.uint8)
    pointers = ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(out.ctypes.data)
    ggml("ggml_quantize_chunk")(_code(type_name), *pointers, 0, count, width, None)
    return out


def decode_rows(stored: npt.NDArray[np.uint8], type_name: str, width: int) -> Floats:
    """Decode (n, bytes per row) ``stored`` rows of the tensor type ``type_name`` to (n, width) float32."""
    stored = np.ascontiguousarray(stored)
    if type_name == "f32":
        return stored.view(np.float32)
    out = np.empty((len(stored), width), np.float32)
    to_float = type_traits(_code(type_name)).to_float
    to_float(ctypes.c_void_p(stored.ctypes.data), ctypes.c_void_p(out.ctypes.data), out.size)
    return out


def _code(type_name: str) -> int:
    code = GGML_TYPES.get(type_name.lower())
    if code is None:
        raise ModelError(f"rows cannot be encoded as {type_name}; types that can: {', '.join(GGML_TYPES)}")
    return code
