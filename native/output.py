"""Output files: never over an existing one unasked, and never half-written under their name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


def check_free(path: str | Path, overwrite: bool) -> None:
    """Raises OutputError if ``path`` exists and ``overwrite`` is not set."""
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists; choose another name or allow it to be overwritten (--force)")


def unfinished_path(path: str | Path) -> Path:
    """Where ``path`` is written until it is whole."""
    return Path(f"{path}.unfinished")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
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
