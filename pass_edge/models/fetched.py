"""Which files we downloaded, so that `pass-edge models rm` removes these and nothing else.

The hub's cache is shared with other programs. So for each file that we put there, a note of the same name is
kept in our own folder, with the file's path.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pass_edge.native.errors import ModelError, OutputError

from .folders import data_folder
from .local_stores import StoredModel


def mark_fetched(blob: Path) -> None:
    """Note that we downloaded ``blob``, a file in the hub's cache. Without the note it only stays longer."""
    with suppress(OSError):
        note = _note(blob)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(blob.resolve()), "utf-8")


def is_fetched(model: StoredModel) -> bool:
    """Return whether we downloaded all files of ``model``."""
    return all(_is_ours(piece.resolve()) for piece in model.pieces)


def remove(model: StoredModel) -> int:
    """Remove the files of ``model``, which we downloaded, from the hub's cache. Return how many bytes that
    frees. Raises ModelError if we did not download them, OutputError if they cannot be removed."""
    if not is_fetched(model):
        raise ModelError(
            f"{model.name} was not downloaded by pass-edge; it belongs to {model.store}, in "
            f"{model.path.parent}; remove it there"
        )
    size = model.size
    try:
        for piece in model.pieces:
            _remove(piece)
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be removed: {error.strerror}") from error
    return size


def _remove(pointer: Path) -> None:
    """Remove a file of a snapshot: what all snapshots of the repository point to, and the pointers."""
    blob = pointer.resolve()
    for other in (blob.parent.parent / "snapshots").rglob("*.gguf"):
        if other.is_symlink() and other.resolve() == blob:
            other.unlink()
    pointer.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    _note(blob).unlink(missing_ok=True)


def _is_ours(blob: Path) -> bool:
    with suppress(OSError, ValueError):
        return _note(blob).read_text("utf-8") == str(blob)
    return False


def _note(blob: Path) -> Path:
    return data_folder() / "fetched" / blob.name
