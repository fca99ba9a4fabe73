"""Matrices as ggml stores them, to and from float32, by its own functions."""

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
_CHUNK = 64  # rows; all at once would be four bytes a number, and the heap keeps what was needed once


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix of rows of ``width`` numbers: ``data`` (rows, bytes a row) uint8 of ggml's type ``type_name``.
    A file's is mapped, so that it takes memory only where it is read."""

    data: npt.NDArray[np.uint8]
    type_name: str
    width: int

    @classmethod
    def of(cls, numbers: Floats) -> QuantizedMatrix:
        """``numbers`` (rows, width) in eight bits, or unrounded where blocks do not divide the width."""
        width = numbers.shape[1]
        block = type_traits(GGML_TYPES[_EIGHT_BITS]).block_size
        type_name = "f32" if width % block else _EIGHT_BITS
        return cls(encode_rows(numbers, type_name), type_name, width)

    @classmethod
    def mapped(cls, path: Path, tensor: Tensor) -> QuantizedMatrix:
        """The matrix ``tensor`` of the GGUF file ``path``."""
        count, width = tensor.shape
        data = np.memmap(path, np.uint8, "r", tensor.offset, (count, tensor.size // count))
        return cls(data, tensor.type_name, width)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.data), self.width

    def rows(self, which: npt.NDArray[np.int32]) -> QuantizedMatrix:
        """The rows ``which`` (m,), in memory."""
        return QuantizedMatrix(np.asarray(self.data[which]), self.type_name, self.width)

    def in_four_bits(self, which: npt.NDArray[np.int32] | None = None) -> QuantizedMatrix:
        """Its rows ``which`` (m,), or all, rounded to ``q4_0``, in memory; or as they are where that is not
        less, or blocks do not divide its width."""
        block = type_traits(GGML_TYPES[_FOUR_BITS])
        if self.width % block.block_size or self.data.shape[1] <= bytes_a_row(_FOUR_BITS, self.width):
            return self if which is None else self.rows(which)
        rows = len(self.data if which is None else which)
        # pages of its own, which are the system's again once it is copied to where it is multiplied by
        pages = mmap.mmap(-1, rows * bytes_a_row(_FOUR_BITS, self.width))
        rounded = np.frombuffer(pages, np.uint8).reshape(rows, -1)
        for start, numbers in self.chunks(which):
            rounded[start : start + len(numbers)] = encode_rows(numbers, _FOUR_BITS)
        return QuantizedMatrix(rounded, _FOUR_BITS, self.width)

    def chunks(self, which: npt.NDArray[np.int32] | None = None) -> Iterator[tuple[int, Floats]]:
        """``numbers`` of the rows ``which``, or of all, some after the other, each with the place of the
        first."""
        for start in range(0, len(self.data if which is None else which), _CHUNK):
            some = slice(start, start + _CHUNK)
            rows = self.data[some if which is None else which[some]]
            yield start, decode_rows(rows, self.type_name, self.width)

    def numbers(self) -> Floats:
        """All of it, (rows, width) float32."""
        return decode_rows(self.data, self.type_name, self.width)

    def let_go(self) -> None:
        """What a file's takes of memory is free again, until it is read anew."""
        mapped = getattr(self.data, "_mmap", None)
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def bytes_a_row(type_name: str, width: int) -> int:
    """Of rows of ``width`` numbers. Raises ModelError if the type's blocks do not divide them."""
    traits = type_traits(_code(type_name))
    if width % traits.block_size:
        raise ModelError(f"{type_name} takes rows of a multiple of {traits.block_size}, not of {width}")
    return width // traits.block_size * traits.type_size


def encode_rows(rows: Floats, type_name: str) -> npt.NDArray[np.uint8]:
    """``rows`` (n, width) as ggml stores them in the tensor type ``type_name``: (n, bytes a row) uint8.
    Raises ModelError for types without an encoder, or that do not divide the width."""
    count, width = rows.shape
    source = np.ascontiguousarray(rows, np.float32)
    out = np.empty((count, bytes_a_row(type_name, width)), np.uint8)
    pointers = ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(out.ctypes.data)
    ggml("ggml_quantize_chunk")(_code(type_name), *pointers, 0, count, width, None)
    return out


def decode_rows(stored: npt.NDArray[np.uint8], type_name: str, width: int) -> Floats:
    """(n, bytes a row) ``stored`` rows of the tensor type ``type_name`` as (n, width) float32."""
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
