"""Paths of models: whether a path leads to a GGUF file, and the pieces of a split model."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from .errors import ModelError

_FIRST_PIECE = re.compile(r"(.*)-00001-of-([0-9]{5})\.gguf")
_OTHER_FILES = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    b"PK\x03\x04": "a zip archive, such as torch writes; convert the model to GGUF",
    b"<!DOCTYPE": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    **dict.fromkeys((b"lmgg", b"fmgg", b"tjgg"), "in a format older than GGUF; convert the model anew"),
}
"""What other files are that were taken for a model, by their first bytes."""
_HEADER_BYTES = 32
_FILES_SHOWN = 3


def check_is_gguf(path: Path) -> Path:
    """Return ``path`` if it looks like a GGUF file. Raises ModelError with the reason if not."""
    try:
        if not path.exists():
            raise ModelError(f"there is no file {path}{_similar_files(path)}")
        if path.is_dir():
            raise ModelError(f"{path} is a folder{_files_inside(path)}")
        if not path.is_file():  # reading a pipe could wait for ever
            raise ModelError(f"{path} is a pipe or a device; give a regular file, which can be mapped")
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise ModelError(f"{path} is empty")
    if start[:4] == b"GGUF":
        return path
    for mark, what in _OTHER_FILES.items():
        if start.lower().startswith(mark.lower()):
            raise ModelError(f"{path} is not a GGUF file; it is {what}")
    if start[8:10] == b'{"':
        raise ModelError(f"{path} is not a GGUF file; it is in safetensors' format; convert it to GGUF")
    raise ModelError(f"{path} is not a GGUF file (it starts with {start[:4]!r}, not b'GGUF')")


def _similar_files(path: Path) -> str:
    """Return the end of a sentence about a missing file: which ones beside it have similar names."""
    if not path.parent.is_dir():
        return f", and no folder {path.parent}"
    by_stem = {name.lower().removesuffix(".gguf"): name for name in _gguf_files(path.parent)}
    similar = get_close_matches(path.name.lower().removesuffix(".gguf"), by_stem, n=_FILES_SHOWN)
    names = " or ".join(str(path.with_name(by_stem[stem])) for stem in similar)
    return f"; did you mean {names}?" if names else ""


def _files_inside(folder: Path) -> str:
    """Return the end of a sentence about a folder that was given as a model."""
    names = _gguf_files(folder)
    if names:
        more = ", …" if len(names) > _FILES_SHOWN else ""
        return f"; give the .gguf file inside it: {', '.join(names[:_FILES_SHOWN])}{more}"
    if any(folder.glob("*.safetensors")):
        return " with a model in safetensors' format; convert it to GGUF, and give that file"
    return " without a .gguf file; give a .gguf file"


def _gguf_files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name.lower().endswith(".gguf"))


def readable(path: str | Path) -> str:
    """Return ``path`` as text that can be written anywhere: bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def pieces_of(path: Path) -> tuple[Path, ...]:
    """Return the files of the model that begins in ``path``, by its name: of a split model, all pieces that
    llama.cpp expects; else ``path`` alone."""
    if not (match := _FIRST_PIECE.fullmatch(path.name)):
        return (path,)
    stem, count = match[1], int(match[2])
    return tuple(path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def size_on_disk(path: Path) -> int:
    """Return the bytes of a model's file, or of all its pieces."""
    return sum(piece.stat().st_size for piece in pieces_of(path))
