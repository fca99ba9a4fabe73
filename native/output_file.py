"""Output files: never overwrite an existing one without permission, and never leave a half-written one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError
from .model_path import pieces_of


def check_output_path(path: str | Path, overwrite: bool, *sources: str | Path) -> None:
    """Check, before the work begins, that ``path`` may be written.

    Raises OutputError if it is one of ``sources`` (the files that the output is made from) or a further piece
    of one, if it exists and ``overwrite`` is false, or if its folder does not exist.
    """
    path = Path(path)
    read = (piece for source in sources for piece in pieces_of(Path(source)))
    if path.exists() and any(each.exists() and path.samefile(each) for each in read):
        raise OutputError(f"{path} is what the output is made from; choose another name for the output")
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists; choose another name or allow it to be overwritten (--force)")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")


def unfinished_path(path: str | Path) -> Path:
    """Return the temporary name under which ``path`` is written."""
    return Path(f"{path}.unfinished")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` if the block succeeds and removed if not.

    Raises OutputError if the system refuses to write (full disk, missing folder).
    """
    unfinished = unfinished_path(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
