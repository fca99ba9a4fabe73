"""Store measurements of this machine, so that they are not repeated: small JSON files in the user's cache
folder, which the environment variable PASS_EDGE_CACHE moves. A file that is damaged or cannot be written only
costs a new measurement."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from pass_edge.native.devices import device_names
from pass_edge.native.library import kernels, library_path, system_info
from pass_edge.settings import Settings


def cache_folder() -> Path:
    """Return the folder of the stored measurements."""
    return Path(os.environ.get("PASS_EDGE_CACHE") or user_cache_path("pass-edge"))


def load(kind: str, key: str) -> Any | None:
    """Return the value stored under ``key``; None if there is none, or it cannot be read."""
    try:
        return json.loads(_file(kind, key).read_text())
    except (OSError, ValueError):
        return None


def store(kind: str, key: str, value: Any) -> None:
    """Store a JSON value for later runs. Do nothing where the folder cannot be written."""
    file = _file(kind, key)
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value))
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)


def library_key() -> str:
    """Return a key that changes with the llama.cpp build, the devices it finds, the kernels in use, and
    ggml's environment variables."""
    stat = library_path().stat()
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("GGML_"))
    build = f"{library_path()} {stat.st_size} {stat.st_mtime_ns} {system_info()} {kernels()}"
    return " ".join([build, *device_names(), *variables])


def model_key(path: Path) -> str:
    """Return a key that changes with the model file."""
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def run_key(path: Path, settings: Settings) -> str:
    """Return a key that changes with everything that decides how fast a model runs, and to which bits."""
    return (
        f"{library_key()} {model_key(path)} {settings.threads} {settings.gpu_layers} "
        f"{settings.cache_type_k} {settings.cache_type_v} {settings.flash_attn}"
    )


def _file(kind: str, key: str) -> Path:
    return cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
