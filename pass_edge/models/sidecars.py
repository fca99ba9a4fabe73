"""Which lookahead file belongs to a model: it is looked for beside the model, in the user's own folder, among
the shipped ones, and in the model's repository on the hub."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path

from pass_edge.calibration.measurement_cache import cache_folder
from pass_edge.drafting.lookahead import Base
from pass_edge.drafting.lookahead_file import is_merged, read_lookahead
from pass_edge.native.errors import LookaheadError, ModelError, OutputError, PassEdgeError, SettingsError
from pass_edge.native.gguf_file import GgufFile, open_gguf
from pass_edge.native.output_file import atomic_write

from .folders import files_below, sidecar_folder
from .local_stores import cached_sidecars
from .names import HubName
from .repository import SIDECAR

_ASK_AGAIN = 7 * 24 * 3600  # seconds


def find_lookahead(model: Path | GgufFile, base: Base, repository: str = "") -> Path | None:
    """Return the lookahead file to use where the user names none: the model itself if one is merged into it,
    else ``MODEL.pass.gguf`` beside it, else one that fits of the user's own, the shipped ones, and those of
    the model's ``repository`` on the hub ("" if the user named none). None if there is none."""
    with open_gguf(model) as file:
        if is_merged(file):
            return file.path
    beside = file.path.with_suffix(SIDECAR)
    if beside.exists():
        return beside
    return next((path for path in _others(repository) if _fits(path, base)), None)


def shipped_sidecars() -> list[Path]:
    """Return the lookahead files that come with this package, by name."""
    folder = resources.files("pass_edge") / "data"
    return sorted(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(SIDECAR))


def own_sidecars() -> list[Path]:
    """Return the lookahead files that the user added."""
    return list(files_below(sidecar_folder(), f"*{SIDECAR}"))


def add_sidecar(source: Path, *, overwrite: bool = False) -> Path:
    """Copy a lookahead file to the user's folder, where every model that it fits finds it. Return its path.
    Raises LookaheadError or ModelError if it is none, OutputError."""
    read_lookahead(source)
    target = sidecar_folder() / f"{source.name.removesuffix('.gguf').removesuffix('.pass')}{SIDECAR}"
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; --force replaces it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target.parent} cannot be made: {error.strerror}") from error
    with atomic_write(target) as unfinished:
        unfinished.write_bytes(source.read_bytes())
    return target


def own_sidecar(name: str) -> Path:
    """Return the user's lookahead file of this name. Raises SettingsError if there is none."""
    own = {path.name.removesuffix(SIDECAR): path for path in own_sidecars()}
    if found := own.get(name.removesuffix(SIDECAR)):
        return found
    there = f"it has {', '.join(own)}" if own else "it is empty"
    raise SettingsError(f"there is no lookahead file {name} in {sidecar_folder()}; {there}")


def _others(repository: str) -> Iterator[Path]:
    yield from own_sidecars()
    yield from shipped_sidecars()
    if repository:
        yield from cached_sidecars(repository)
        yield from _fetched_sidecars(repository)


def _fetched_sidecars(repository: str) -> list[Path]:
    """Return the lookahead files of a repository whose model came from elsewhere. The hub is asked once a
    week, and what goes wrong does not matter: the model works without."""
    from .hub import fetch, is_offline, list_repository

    with suppress(PassEdgeError, OSError):
        asked = cache_folder() / "asked" / repository.replace("/", "--")
        if is_offline() or (asked.exists() and time.time() - asked.stat().st_mtime < _ASK_AGAIN):
            return []
        asked.parent.mkdir(parents=True, exist_ok=True)
        asked.touch()
        found = list_repository(HubName(repository))
        return fetch(found, [file for file in found.sizes if file.endswith(SIDECAR)])
    return []


def _fits(path: Path, base: Base) -> bool:
    try:
        read_lookahead(path).matches(base)
    except (LookaheadError, ModelError):
        return False
    return True
