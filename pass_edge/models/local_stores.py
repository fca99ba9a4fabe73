"""The models on this disk: those that PASS_EDGE_MODELS names, and those that other programs keep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from os.path import exists, isdir, isfile  # a Path's own methods raise where they may not look
from pathlib import Path
from typing import Any

from pass_edge.native.model_path import pieces_of

from .default import installed_default
from .folders import (
    files_below,
    hub_cache,
    llama_cpp_cache,
    lm_studio_folders,
    model_entries,
    ollama_folders,
    repository_folder,
)
from .names import HubName, OllamaName
from .repository import SIDECAR, choose, is_model, short_name

HUB = "Hugging Face"
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_ADAPTER = "application/vnd.ollama.image.adapter"
_OLLAMA_HUB_HOSTS = ("hf.co", "huggingface.co")


@dataclass(frozen=True)
class StoredModel:
    """A model on this disk. ``name``: what a user types for it; ``store``: what keeps it; ``repository`` and
    ``file``: what it is on the hub, "" if that is unknown."""

    name: str
    path: Path
    store: str
    repository: str = ""
    file: str = ""

    @property
    def pieces(self) -> tuple[Path, ...]:
        """The files of the model; several if it is split."""
        return pieces_of(self.path)

    @property
    def is_complete(self) -> bool:
        return all(map(exists, self.pieces))

    @property
    def size(self) -> int:
        """The size of all pieces, in bytes."""
        return sum(piece.stat().st_size for piece in self.pieces)


def stored_models() -> list[StoredModel]:
    """Return the complete models on this disk, each file once."""
    found: dict[Path, StoredModel] = {}
    for model in [
        *_default(),
        *named_by_user(),
        *_in_hub_caches(),
        *_in_llama_cpp(),
        *_in_lm_studio(),
        *_in_ollama(),
    ]:
        if model.is_complete:
            found.setdefault(model.path.resolve(), model)
    return list(found.values())


def find_stored(name: HubName) -> StoredModel | None:
    """Return the model on this disk that ``name`` means, whichever program fetched it; None if it is not
    here. A revision is known only in the hub's cache."""
    if name.revision:
        models = list(_snapshot_models(name.repository, name.revision))
    else:
        models = [m for m in stored_models() if m.repository.lower() == name.repository.lower()]
    chosen = choose([model.file for model in models], name.which)
    return next((model for model in models if model.file == chosen and model.is_complete), None)


def cached_sidecars(repository: str) -> list[Path]:
    """Return the lookahead files of a repository that are in the hub's cache."""
    return [
        path
        for cache in _hub_caches()
        for snapshot in _snapshots(repository_folder(cache, repository))
        for path in files_below(snapshot, f"*{SIDECAR}")
    ]


def _named(store: str, repository: str, paths: Mapping[str, Path]) -> Iterator[StoredModel]:
    """Yield the models among the files of a repository; ``paths``: where each file is."""
    for file, path in paths.items():
        if is_model(file):
            yield StoredModel(short_name(repository, file, list(paths)), path, store, repository, file)


# -- our own ------------------------------------------------------------------------------------------


def _default() -> Iterator[StoredModel]:
    if path := installed_default():
        yield StoredModel(path.stem, path, "the default model")


def named_by_user() -> Iterator[StoredModel]:
    """Yield the models in the files and folders that PASS_EDGE_MODELS names."""
    for entry in model_entries():
        for path in [entry] if isfile(entry) else files_below(entry, "*.gguf"):
            if path == entry or is_model(path.name):
                *folders, file = path.relative_to(entry).parts or (path.name,)
                repository = "/".join(folders) if len(folders) == 2 else ""
                yield StoredModel(path.stem, path, "PASS_EDGE_MODELS", repository, file)


# -- the hub's cache, and llama.cpp's -----------------------------------------------------------------


def _hub_caches() -> list[Path]:
    return list(dict.fromkeys([hub_cache(), llama_cpp_cache()]))


def _in_hub_caches() -> Iterator[StoredModel]:
    for cache in _hub_caches():
        for folder in _folders(cache, "models--*--*"):
            repository = folder.name.removeprefix("models--").replace("--", "/", 1)
            for snapshot in _snapshots(folder)[:1]:
                yield from _named(HUB, repository, _files_of(snapshot))


def _snapshot_models(repository: str, revision: str) -> Iterator[StoredModel]:
    for cache in _hub_caches():
        folder = repository_folder(cache, repository)
        for snapshot in (_referenced(folder, revision), folder / "snapshots" / revision):
            if snapshot and isdir(snapshot):
                yield from _named(HUB, repository, _files_of(snapshot))


def _snapshots(folder: Path) -> list[Path]:
    """Return the snapshots of a repository, that of the main branch first."""
    main = _referenced(folder, "main")
    return sorted(_folders(folder / "snapshots", "*"), key=lambda snapshot: snapshot != main)


def _referenced(folder: Path, revision: str) -> Path | None:
    with suppress(OSError, ValueError):
        return folder / "snapshots" / (folder / "refs" / revision).read_text("utf-8").strip()
    return None


def _files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in files_below(folder, "*.gguf")}


def _in_llama_cpp() -> Iterator[StoredModel]:
    """Yield what older versions of llama.cpp downloaded: USER_REPO_FILE.gguf, and a manifest that says what
    that was."""
    folder = llama_cpp_cache()
    named: set[Path] = set()
    for manifest in files_below(folder, "manifest=*=*=*.json"):
        _, user, repository, *_ = manifest.name.split("=")
        file = _entry(_read_json(manifest), "ggufFile", "rfilename")
        if isinstance(file, str):
            path = folder / f"{user}_{repository}_{file}".replace("/", "_")
            named.add(path)
            yield from _named("llama.cpp", f"{user}/{repository}", {file: path})
    for path in _glob(folder, "*.gguf"):
        if is_model(path.name) and path not in named:
            yield StoredModel(path.stem, path, "llama.cpp")


# -- LM Studio, Ollama --------------------------------------------------------------------------------


def _in_lm_studio() -> Iterator[StoredModel]:
    for folder in lm_studio_folders():
        for place in _folders(folder, "*/*"):
            yield from _named("LM Studio", place.relative_to(folder).as_posix(), _files_of(place))


def _in_ollama() -> Iterator[StoredModel]:
    for folder in ollama_folders():
        manifests = folder / "manifests"
        for manifest in _glob(manifests, "*/*/*/*"):
            name = OllamaName(*manifest.relative_to(manifests).parts)
            if path := ollama_file(folder, name):
                is_hubs = name.host in _OLLAMA_HUB_HOSTS
                repository, file = (
                    (f"{name.namespace}/{name.model}", f"{name.tag}.gguf") if is_hubs else ("", "")
                )
                yield StoredModel(str(name), path, "Ollama", repository, file)


def ollama_file(folder: Path, name: OllamaName) -> Path | None:
    """Return the model's file that Ollama keeps below ``folder`` under ``name``; None if it has no such file,
    or only together with an adapter, which would change its text."""
    manifest = folder.joinpath("manifests", name.host, name.namespace, name.model, name.tag)
    layers = _entry(_read_json(manifest), "layers")
    listed = reversed(layers) if isinstance(layers, list) else ()  # so that the first of a kind counts
    kinds = {_entry(layer, "mediaType"): _entry(layer, "digest") for layer in listed}
    digest = kinds.get(_OLLAMA_MODEL)
    if not isinstance(digest, str) or _OLLAMA_ADAPTER in kinds:
        return None
    path = folder / "blobs" / digest.replace(":", "-").rpartition("/")[2]
    return path if isfile(path) else None


# -- reading ------------------------------------------------------------------------------------------


def _folders(folder: Path, pattern: str) -> Iterable[Path]:
    return [path for path in _glob(folder, pattern) if isdir(path)]


def _glob(folder: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.glob(pattern))
    return []


def _read_json(path: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text("utf-8"))
    return None


def _entry(value: Any, *keys: str) -> Any:
    """Return the entry of nested objects, None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
