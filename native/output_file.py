"""Output files: never over an existing one unasked, and never half-written under their name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


def check_free(path: str | Path, overwrite: bool, *sources: str | Path) -> None:
    """Raises OutputError if ``path`` is one of the ``sources`` that it is to be made from, if it exists and
    ``overwrite`` is not set, or if its folder is missing: all before the work, not behind it."""
    path = Path(path)
    if path.exists() and any(Path(source).exists() and path.samefile(source) for source in sources):
        raise OutputError(f"{path} is what the output is made from; choose another name for the output")
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists; choose another name or allow it to be overwritten (--force)")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")


def unfinished_path(path: str | Path) -> Path:
    """Where ``path`` is written until it is whole."""
    return Path(f"{path}.unfinished")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A file to write to, which becomes ``path`` if the block ends well and is removed if it does not.
    Raises OutputError where the system refuses (a full disk, a folder that is not there)."""
    unfinished = unfinished_path(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
