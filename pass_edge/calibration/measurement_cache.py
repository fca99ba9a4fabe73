"""What was measured on this machine and need not be measured again: small JSON files in the user's
cache folder (``PASS_EDGE_CACHE`` moves it). A damaged or unwritable file only costs a new measurement."""

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
    """Where measurements are kept."""
    return Path(os.environ.get("PASS_EDGE_CACHE") or user_cache_path("pass-edge"))


def load(kind: str, key: str) -> Any | None:
    """What was remembered under ``key``; None if nothing readable was."""
    try:
        return json.loads(_file(kind, key).read_text())
    except (OSError, ValueError):
        return None


def store(kind: str, key: str, value: Any) -> None:
    """Keep a JSON value for later runs; silently not, where the folder cannot be written."""
    file = _file(kind, key)
    unfinished = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(value))
        os.replace(unfinished, file)
    except OSError:
        unfinished.unlink(missing_ok=True)


def library_key() -> str:
    """Changes with the llama.cpp build, the devices it finds, the kernels used, and ggml's environment
    variables."""
    stat = library_path().stat()
    switches = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("GGML_"))
    build = f"{library_path()} {stat.st_size} {stat.st_mtime_ns} {system_info()} {kernels()}"
    return " ".join([build, *device_names(), *switches])


def model_key(path: Path) -> str:
    """Changes with the model file."""
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def run_key(path: Path, settings: Settings) -> str:
    """Changes with all that decides how fast, and to which bits, a model file runs."""
    return (
        f"{library_key()} {model_key(path)} {settings.threads} {settings.gpu_layers} "
        f"{settings.cache_type_k} {settings.cache_type_v} {settings.flash_attn}"
    )


def _file(kind: str, key: str) -> Path:
    return cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
