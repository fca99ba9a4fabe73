"""The folders in which this program and others keep models, as their environment variables and defaults say.

Nothing here looks into a folder, apart from LM Studio's settings, and no folder need exist.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from platformdirs import user_data_path


def data_folder() -> Path:
    """Return the folder of the user's lookahead files and of our notes about downloads; the environment
    variable PASS_EDGE_DATA moves it."""
    chosen = os.environ.get("PASS_EDGE_DATA")
    return Path(chosen) if chosen else user_data_path("pass-edge")


def model_entries() -> list[Path]:
    """Return the files and folders that PASS_EDGE_MODELS names, separated as in PATH."""
    entries = os.environ.get("PASS_EDGE_MODELS", "").split(os.pathsep)
    return [Path(entry).expanduser() for entry in entries if entry]


def hub_cache() -> Path:
    """Return the folder in which the package huggingface-hub keeps downloads; found without its import, which
    takes most of a second."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(variable):
            return _expanded(chosen)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    return _cache_home() / "huggingface" / "hub"


def repository_folder(cache: Path, repository: str) -> Path:
    """Return the folder of a repository in a cache of the hub's layout."""
    return cache / f"models--{repository.replace('/', '--')}"


def llama_cpp_cache() -> Path:
    """Return the folder in which llama.cpp keeps downloads. Recent versions use the hub's cache instead, or
    its layout in this folder."""
    if chosen := os.environ.get("LLAMA_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "llama.cpp"
    return _cache_home() / "llama.cpp"


def lm_studio_folders() -> list[Path]:
    """Return the folders in which versions of LM Studio keep models."""
    home = _home()
    with suppress(OSError, ValueError):
        home_pointer = (_home() / ".lmstudio-home-pointer").read_text("utf-8").strip()
        home = Path(home_pointer).parent if home_pointer else home
    folders = [home / ".lmstudio" / "models", _cache_home() / "lm-studio" / "models"]
    with suppress(OSError, ValueError, TypeError, LookupError):
        settings = json.loads((home / ".lmstudio" / "settings.json").read_text("utf-8"))
        folders.insert(0, Path(settings["downloadsFolder"]))
    return list(dict.fromkeys(folders))


def ollama_folders() -> list[Path]:
    """Return the folders in which Ollama keeps models: the user's, and that of its service on Linux."""
    if chosen := os.environ.get("OLLAMA_MODELS"):
        return [Path(chosen)]
    services = (
        "/usr/share/ollama/.ollama/models",
        "/var/lib/ollama/models",
        "/var/lib/ollama/.ollama/models",
    )
    return [_home() / ".ollama" / "models", *map(Path, services)]


def sidecar_folder() -> Path:
    """Return the folder of the user's own lookahead files."""
    return data_folder() / "lookahead"


def files_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files below ``folder`` whose names match ``pattern``, in order; none where it cannot be
    read."""
    with suppress(OSError):
        yield from sorted(path for path in folder.rglob(pattern) if os.path.isfile(path))


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache")


def _home() -> Path:
    return Path(os.path.expanduser("~"))
