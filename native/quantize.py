"""llama.cpp's own quantizer: one GGUF file to another, by the type names its users know."""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LibraryError, OutputError, SettingsError
from .gguf_file import GgufFile
from .library import llama, log, take_errors
from .output_file import atomic_write

FILE_TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9,
    "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15,
    "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip
"""`llama.h`, `enum llama_ftype`."""
_STREAM_FAILED = "iostream error"  # all that C++ says of a write that failed


def quantize(
    source: str | Path,
    target: str | Path,
    file_type: str,
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write ``source`` to ``target`` as ``file_type`` (``"Q4_K_M"`` …); quantized sources are allowed,
    at a loss. ``target`` appears only once it is whole. ``progress`` is told how many tensors of how
    many were reached. A strange ``source`` should have passed check_loads: llama.cpp may abort on it.
    Raises ModelError, SettingsError, LibraryError, OutputError.
    """
    GgufFile(source).close()
    if file_type.upper() not in FILE_TYPES:
        raise SettingsError(f"unknown type {file_type!r}; known are {', '.join(FILE_TYPES)}")
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type.upper()]
    params.nthread = threads
    params.allow_requantize = True
    take_errors()
    with atomic_write(target) as unfinished, _watched(progress):
        unfinished.touch()  # Python tells why it cannot; llama.cpp's streams do not
        status = llama.llama_model_quantize(
            str(source).encode(), str(unfinished).encode(), ctypes.byref(params)
        )
        if status != 0:
            reason = take_errors()
            if _STREAM_FAILED in reason:
                raise OutputError(f"{target} cannot be written; is the disk full?")
            raise LibraryError(f"{source} cannot be quantized to {file_type}: {reason}")


class _Watcher(logging.Handler):
    # llama.cpp has no callback for it, but logs a line "[  12/ 272] name …" for each tensor
    def __init__(self, progress: Callable[[int, int], None]) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"\[ *(\d+)/ *(\d+)\]", record.getMessage()):
            self._progress(int(found[1]), int(found[2]))


@contextmanager
def _watched(progress: Callable[[int, int], None]) -> Iterator[None]:
    watcher, level, propagate = _Watcher(progress), log.level, log.propagate
    log.addHandler(watcher)
    if not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.INFO)
        log.propagate = False  # nobody else asked for these lines
    try:
        yield
    finally:
        log.removeHandler(watcher)
        log.setLevel(level)
        log.propagate = propagate
