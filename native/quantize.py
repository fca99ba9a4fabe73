"""Quantize a GGUF file with llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
import logging
import os
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
"""File types by llama.cpp's names (`llama.h`, `enum llama_ftype`)."""
_STREAM_FAILED = "iostream error"  # the text of a C++ exception after a failed write


def quantize(
    source: str | Path,
    target: str | Path,
    file_type: str,
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write ``source`` to ``target`` as ``file_type``, one of FILE_TYPES.

    A quantized source is allowed, but loses accuracy. ``target`` appears only when it is complete.
    ``progress``: called with the number of the current tensor and their total. Call check_loads on untrusted
    files first: llama.cpp may abort on them. Raises ModelError, SettingsError, LibraryError, OutputError.
    """
    GgufFile(source).close()
    if file_type.upper() not in FILE_TYPES:
        raise SettingsError(f"unknown type {file_type!r}; known are {', '.join(FILE_TYPES)}")
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type.upper()]
    params.nthread = threads
    params.allow_requantize = True
    take_errors()
    with atomic_write(target) as unfinished, _log_progress(progress):
        unfinished.touch()  # Python reports why a file cannot be written; llama.cpp's streams do not
        status = llama.llama_model_quantize(
            os.fsencode(source), os.fsencode(unfinished), ctypes.byref(params)
        )
        if status != 0:
            reason = take_errors()
            if _STREAM_FAILED in reason:
                raise OutputError(f"{target} cannot be written; is the disk full?")
            raise LibraryError(f"{source} cannot be quantized to {file_type}: {reason}")


class _ProgressHandler(logging.Handler):
    # llama.cpp has no progress callback here, but logs a line "[  12/ 272] name …" for each tensor
    def __init__(self, progress: Callable[[int, int], None]) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if match := re.match(r"\[ *(\d+)/ *(\d+)\]", record.getMessage()):
            self._progress(int(match[1]), int(match[2]))


@contextmanager
def _log_progress(progress: Callable[[int, int], None]) -> Iterator[None]:
    handler, level, propagate = _ProgressHandler(progress), log.level, log.propagate
    log.addHandler(handler)
    if not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.INFO)
        log.propagate = False  # the program did not ask for these lines
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
