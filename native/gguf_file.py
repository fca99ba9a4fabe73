"""GGUF files: metadata and tensor table, read and written by ggml itself. Tensor data stays on disk."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .library import TypeTraits, arena_params, ggml, gguf_params, take_errors
from .model_path import check_is_gguf, pieces_of

Value: TypeAlias = "str | int | float | bool | npt.NDArray[Any] | list[bytes]"
"""The value of a metadata key. Arrays of numbers are numpy arrays, arrays of strings are lists of UTF-8."""

# `gguf.h`, `enum gguf_type`
_NUMBERS = {
    0: np.uint8, 1: np.int8, 2: np.uint16, 3: np.int16, 4: np.uint32, 5: np.int32, 6: np.float32,
    7: np.bool_, 10: np.uint64, 11: np.int64, 12: np.float64,
}  # fmt: skip
_CODES: dict[np.dtype[Any], int] = {np.dtype(dtype): code for code, dtype in _NUMBERS.items()}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # GGUF's default
_CHUNK = 1 << 23  # bytes
_OF_THE_OLD_FILE = ("general.alignment", "split.no", "split.count", "split.tensors.count")
"""Keys that are not true of a copy: it is one file, with the default alignment."""


def type_traits(code: int) -> TypeTraits:
    """Return ggml's description of the tensor type ``code``."""
    return ggml("ggml_get_type_traits")(code).contents


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file. ``code``: its type as in `enum ggml_type`; ``shape``: in numpy's order, rows first
    (a vector is one row); ``offset`` from the start of the file and ``size``: in bytes; ``piece``: the index
    of the file that holds it, in a split model."""

    name: str
    code: int
    shape: tuple[int, ...]
    offset: int
    size: int
    piece: int = 0

    @property
    def type_name(self) -> str:
        """ggml's name, such as ``q8_0`` or ``q4_K``."""
        return type_traits(self.code).name.decode()


class GgufFile:
    """An open GGUF file. Close it, or use it as a context manager.

    Attributes: ``path``; ``pieces``: the files of a split model, of which ``path`` is the first and has the
    metadata, else ``path`` alone; ``tensors`` of all of them, by name.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises ModelError if the file is missing, not GGUF, damaged, or shorter than its tensors; or if a
        further piece is."""
        self.path = Path(path)
        self._handle: int | None = _open(self.path)
        self.tensors: dict[str, Tensor] = {}
        try:
            self.pieces = self._find_pieces()
            self._add_tensors(0, self.handle)
            for number in range(1, len(self.pieces)):
                handle = _open(self.pieces[number])
                try:
                    self._add_tensors(number, handle)
                finally:
                    ggml("gguf_free")(handle)
        except ModelError:
            self.close()
            raise

    def _find_pieces(self) -> tuple[Path, ...]:
        count = self.number("split.count") or 0
        if count < 2 or self.number("split.no") != 0:
            return (self.path,)
        pieces = pieces_of(self.path)
        if len(pieces) != count:
            raise ModelError(
                f"{self.path} is the first of {count} pieces of a model, so its name must end in "
                f"-00001-of-{count:05}.gguf"
            )
        if missing := next((piece for piece in pieces if not piece.exists()), None):
            raise ModelError(
                f"{self.path} is the first of {count} pieces of a model, but {missing.name} is not beside it"
            )
        return pieces

    def _add_tensors(self, number: int, handle: int) -> None:
        path = self.pieces[number]
        tensors = list(_read_tensors(number, handle))
        if max((tensor.offset + tensor.size for tensor in tensors), default=0) > path.stat().st_size:
            raise ModelError(f"{path} is damaged or cut off: its tensors end behind its end")
        if ggml("gguf_find_key")(handle, b"") >= 0:  # ggml aborts when it copies such a key
            raise ModelError(f"{path} is damaged or cut off: a key has no name")
        self.tensors |= {tensor.name: tensor for tensor in tensors}

    def get(self, key: str) -> Value | None:
        """Return the value of ``key``; None if the file has no such key."""
        index = ggml("gguf_find_key")(self.handle, key.encode())
        if index < 0:
            return None
        code = ggml("gguf_get_kv_type")(self.handle, index)
        if code == _ARRAY:
            return self._array(index)
        if code == _STRING:
            return ggml("gguf_get_val_str")(self.handle, index).decode("utf-8", "replace")
        return _numbers(ggml("gguf_get_val_data")(self.handle, index), code, 1)[0].item()

    def number(self, key: str) -> int | None:
        """Return the value of ``key`` if it is a whole number, a truth value included; else None."""
        value = self.get(key)
        return value if isinstance(value, int) else None

    def text(self, key: str) -> str | None:
        """Return the value of ``key`` if it is text; else None."""
        value = self.get(key)
        return value if isinstance(value, str) else None

    def _array(self, index: int) -> npt.NDArray[Any] | list[bytes]:
        code = ggml("gguf_get_arr_type")(self.handle, index)
        count = ggml("gguf_get_arr_n")(self.handle, index)
        if code == _STRING:
            string, handle = ggml("gguf_get_arr_str"), self.handle
            return [string(handle, index, i) for i in range(count)]
        return _numbers(ggml("gguf_get_arr_data")(self.handle, index), code, count)

    def chunks(self, tensor: Tensor) -> Iterator[memoryview]:
        """Yield the bytes of ``tensor`` in chunks. Each is valid until the next one."""
        buffer = memoryview(bytearray(min(_CHUNK, tensor.size)))
        path = self.pieces[tensor.piece]
        with path.open("rb") as file:
            file.seek(tensor.offset)
            remaining = tensor.size
            while remaining:
                count = file.readinto(buffer[: min(remaining, len(buffer))])
                if not count:
                    raise ModelError(f"{path} became shorter while it was read")
                yield buffer[:count]
                remaining -= count

    @property
    def handle(self) -> int:
        """ggml's pointer. Raises ModelError once the file is closed."""
        if not self._handle:
            raise ModelError(f"{self.path} has been closed")
        return self._handle

    def close(self) -> None:
        """Free the metadata and the tensor table; safe to call twice."""
        if self._handle:
            ggml("gguf_free")(self._handle)
            self._handle = None

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    """Return ggml's pointer to the metadata and tensor table of a file. Raises ModelError."""
    check_is_gguf(path)
    take_errors()
    handle = ggml("gguf_init_from_file")(os.fsencode(path), gguf_params())
    if not handle:
        reason = take_errors() or "llama.cpp gave no reason"
        raise ModelError(f"{path} is damaged or cut off: {reason}")
    return int(handle)


def _read_tensors(number: int, handle: int) -> Iterator[Tensor]:
    """Yield the tensors of the piece ``number``."""
    start = ggml("gguf_get_data_offset")(handle)
    for index in range(ggml("gguf_get_n_tensors")(handle)):
        sizes = ggml("gguf_get_tensor_ne")(handle, index)[:4]
        while len(sizes) > 2 and sizes[-1] == 1:
            sizes.pop()
        yield Tensor(
            name=ggml("gguf_get_tensor_name")(handle, index).decode("utf-8", "replace"),
            code=ggml("gguf_get_tensor_type")(handle, index),
            shape=tuple(reversed(sizes)),
            offset=start + ggml("gguf_get_tensor_offset")(handle, index),
            size=ggml("gguf_get_tensor_size")(handle, index),
            piece=number,
        )


def open_gguf(file: str | Path | GgufFile) -> AbstractContextManager[GgufFile]:
    """Open ``file`` for one ``with`` block; a file that is open already stays open after it.

    Pass an open file on where there is one: a model's metadata takes megabytes, and malloc returns little of
    them to the system. Raises ModelError.
    """
    return nullcontext(file) if isinstance(file, GgufFile) else GgufFile(file)


def trained_context(path: str | Path) -> int:
    """Return the context in tokens that the model in ``path`` was trained with; 0 if the file does not say.
    Raises ModelError."""
    with GgufFile(path) as file:
        return file.number(f"{file.text('general.architecture')}.context_length") or 0


def _numbers(address: int | None, code: int, count: int) -> npt.NDArray[Any]:
    dtype = np.dtype(_NUMBERS[code])
    return np.frombuffer(ctypes.string_at(address or 0, count * dtype.itemsize), dtype)


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write: ``code`` and ``shape`` as in Tensor; ``data`` returns its bytes in chunks."""

    name: str
    code: int
    shape: tuple[int, ...]
    data: Callable[[], Iterable[Any]]


def write_gguf(
    path: Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[NewTensor],
    *,
    like: GgufFile | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a GGUF file of ``metadata`` and ``tensors`` to ``path``.

    ``like``: a file whose metadata is copied first; ``metadata`` overrides it. Integers are written as u32.
    ``progress``: called with the number of tensors written and their total. Raises OSError, ModelError.
    """
    contents = ggml("gguf_init_empty")()
    try:
        if like:
            ggml("gguf_set_kv")(contents, like.handle)
            for key in _OF_THE_OLD_FILE:
                ggml("gguf_remove_key")(contents, key.encode())
        for key, value in metadata.items():
            _set(contents, key.encode(), value)
        with _descriptions(tensors) as descriptions:
            for description in descriptions:
                ggml("gguf_add_tensor")(contents, description)
        table = ctypes.create_string_buffer(ggml("gguf_get_meta_size")(contents))
        ggml("gguf_get_meta_data")(contents, table)
        starts = [ggml("gguf_get_tensor_offset")(contents, index) for index in range(len(tensors))]
        sizes = [ggml("gguf_get_tensor_size")(contents, index) for index in range(len(tensors))]
    finally:
        ggml("gguf_free")(contents)
    with path.open("wb") as file:
        file.write(table)
        for done, (tensor, start, size) in enumerate(zip(tensors, starts, sizes, strict=True)):
            progress(done, len(tensors))
            file.seek(len(table) + start)
            written = sum(file.write(part) for part in tensor.data())
            if written != size:
                raise ModelError(f"{tensor.name} has {written} bytes of data, not {size}")
        file.truncate(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
    progress(len(tensors), len(tensors))


def _set(contents: int, key: bytes, value: Value) -> None:
    if isinstance(value, str):
        ggml("gguf_set_val_str")(contents, key, value.encode())
    elif isinstance(value, int):
        ggml("gguf_set_val_u32")(contents, key, value)
    elif isinstance(value, list):
        ggml("gguf_set_arr_str")(contents, key, (ctypes.c_char_p * len(value))(*value), len(value))
    elif isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        code = _CODES[data.dtype]
        ggml("gguf_set_arr_data")(contents, key, code, ctypes.c_void_p(data.ctypes.data), data.size)
    else:
        raise TypeError(f"{key!r}: values of type {type(value).__name__} cannot be written to a GGUF file")


@contextmanager
def _descriptions(tensors: Sequence[NewTensor]) -> Iterator[list[int]]:
    arena = ggml("ggml_init")(arena_params((len(tensors) + 1) * ggml("ggml_tensor_overhead")()))
    try:
        descriptions = []
        for tensor in tensors:
            sizes = (ctypes.c_int64 * len(tensor.shape))(*reversed(tensor.shape))
            description = ggml("ggml_new_tensor")(arena, tensor.code, len(sizes), sizes)
            descriptions.append(ggml("ggml_set_name")(description, tensor.name.encode()))
        yield descriptions
    finally:
        ggml("ggml_free")(arena)
