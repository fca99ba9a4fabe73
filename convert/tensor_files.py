"""List the tensors in safetensors and torch files, and read only the rows that are needed.

Files may come from strangers, so no code in them is run: safetensors hold numbers only, and torch's pickles
are loaded with ``weights_only``, which refuses everything but tensors and plain containers.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - lets numpy, and so safetensors, know bfloat16
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from pass_edge.native.errors import LookaheadError

FLOATS = ("F32", "F16", "BF16")
_TORCH_NAMES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, not read yet. ``read``: returns a range of its rows as float32."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[range], npt.NDArray[np.float32]]

    @property
    def size(self) -> str:
        """The shape as text."""
        return " × ".join(map(str, self.shape)) or "a single number"


def stored_tensors(path: Path) -> list[StoredTensor]:
    """Return the tensors in ``path``. Raises LookaheadError if it cannot be read, or not without running
    code."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise LookaheadError(f"{path} cannot be read: {error.strerror}") from error
    is_torch = start[:2] == b"PK" or (start[:1] == b"\x80" and start[8:] != b"{")
    return _in_torch_file(path) if is_torch else _in_safetensors(path)


def _in_safetensors(path: Path) -> list[StoredTensor]:
    def read(name: str, rows: range) -> npt.NDArray[np.float32]:
        with _readable(path, "safetensors file"), safe_open(path, "np") as file:
            return np.asarray(file.get_slice(name)[rows.start : rows.stop], np.float32)

    with _readable(path, "safetensors file"), safe_open(path, "np") as file:
        parts = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118 - not a dict
        return [
            StoredTensor(name, tuple(part.get_shape()), part.get_dtype(), partial(read, name))
            for name, part in parts
        ]


def _in_torch_file(path: Path) -> list[StoredTensor]:
    try:
        import torch
    except ImportError as error:
        raise LookaheadError(
            f"{path} is a torch file, and torch is not installed; install it, or save as safetensors"
        ) from error
    with _readable(path, "torch file"):
        content = _load(path)
        return [
            StoredTensor(name, tuple(value.shape), _dtype(value), partial(_rows, path, value))
            for name, value in _flat(content, "")
            if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_cpu
        ]


def _load(path: Path) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damage that raises an error anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:  # its message would explain how to run the file's code
        raise ValueError("it holds more than tensors and plain containers, or is damaged") from error


def _dtype(tensor: Any) -> str:
    return _TORCH_NAMES.get(str(tensor.dtype), str(tensor.dtype))


def _rows(path: Path, tensor: Any, rows: range) -> npt.NDArray[np.float32]:
    with _readable(path, "torch file"):
        return tensor[rows.start : rows.stop].detach().float().contiguous().numpy()


def _flat(content: object, name: str) -> Iterator[tuple[str, object]]:
    """Yield all values in nested mappings under dotted names. A single value is named ``tensor``."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name or "tensor", content


@contextmanager
def _readable(path: Path, file_format: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file makes a parser raise anything
        reason = str(error).partition("\n")[0]
        raise LookaheadError(f"{path} is not a readable {file_format}: {reason}") from error
