"""From what a user typed to a model's file, which is downloaded if it is nowhere on this disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from pass_edge.native.errors import ModelError
from pass_edge.native.model_path import readable

from .folders import ollama_folders
from .names import HubName, OllamaName, ShortName, parse_name

if TYPE_CHECKING:
    from .hub import Progress


@dataclass(frozen=True)
class ModelFile:
    """A model's file. ``name``: what the user typed, or the file's name; ``repository``: where it is on the
    hub, "" if the user named none."""

    path: Path
    name: str
    repository: str = ""


def find_model(
    model: str | os.PathLike[str] | ModelFile,
    *,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> ModelFile:
    """Return the file that ``model`` names (names.py lists the forms). A Path is a path, and costs nothing.

    What any program has on this disk is taken from there, without asking the hub. ``progress``: told of a
    download; None draws a bar. ``note``: told which file was taken where the name leaves it open. Raises
    ModelError, SettingsError, and OutputError if the disk is full.
    """
    if isinstance(model, ModelFile):
        return model
    name = parse_name(model)
    if isinstance(name, Path):
        return ModelFile(name, readable(name.stem))
    if isinstance(name, HubName):
        return ModelFile(_on_this_disk(name, note) or download(name, progress), str(model), name.repository)
    path = _in_ollama(name) if isinstance(name, OllamaName) else _listed(name)
    return ModelFile(path, str(model))


def download(name: HubName, progress: Progress | None = None) -> Path:
    """Download the model, and the lookahead files of its repository, from the hub. Return the path of the
    model, of its first piece if it is split. Raises as ``find_model``."""
    from .hub import fetch, list_repository

    repository = list_repository(name)
    files = repository.choose()
    return fetch(repository, [*files, *repository.sidecars(files[0])], progress)[0]


def _on_this_disk(name: HubName, note: Callable[[str], None]) -> Path | None:
    from .local_stores import find_stored

    stored = find_stored(name)
    if stored and not name.which:
        note(f"{name} is {stored.name} of {stored.store}, which is here already")
    return stored.path if stored else None


def _in_ollama(name: OllamaName) -> Path:
    from .local_stores import ollama_file, stored_models

    for folder in ollama_folders():
        if path := ollama_file(folder, name):
            return path
    there = [model.name for model in stored_models() if model.store == "Ollama"]
    known = f"it has {', '.join(there)}" if there else "it has no models that can be used"
    short = str(name).removeprefix("ollama:")
    raise ModelError(
        f"Ollama has no {short} in GGUF without an adapter here; {known}. `ollama pull {short}` gets it"
    )


def _listed(name: ShortName) -> Path:
    from .local_stores import stored_models

    models, wanted = stored_models(), name.text.lower()
    found = [m for m in models if wanted in (m.name.lower(), m.path.stem.lower(), m.path.name.lower())]
    if len(found) == 1:
        return found[0].path
    if found:
        places = ", ".join(str(model.path) for model in found)
        raise ModelError(f"several models are called {name.text}; give the path of one: {places}")
    by_words = {
        word.lower(): m.name for m in models for word in (m.name, m.name.rpartition("/")[2], m.path.stem)
    }
    by_words |= {m.name.lower().removeprefix("ollama:"): m.name for m in models}
    close = list(dict.fromkeys(by_words[word] for word in get_close_matches(wanted, by_words, 6, 0.6)))
    meant = f"; is {' or '.join(close[:3])} meant" if close else ""
    raise ModelError(
        f"there is no file {name.text:.100}, and no model of that name on this disk{meant}; "
        "`pass-edge models` lists them, and USER/REPO names one on Hugging Face's hub"
    )
