"""Store measurements of this machine, so that they are not repeated: small JSON files in the user's cache
folder, which the environment variable PASS_EDGE_CACHE moves. An entry that is damaged, or cannot be written,
only costs a new measurement."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_cache_path

from pass_edge.native.devices import default_threads, device_names
from pass_edge.native.library import kernels, library_path, system_info
from pass_edge.native.model_path import pieces_of
from pass_edge.settings import Settings

T = TypeVar("T")
_problems: list[str] = []
"""Why an entry could not be written; at most one sentence."""


def cache_folder() -> Path:
    """Return the folder of the stored measurements. Raises OSError if the user has no home folder."""
    if chosen := os.environ.get("PASS_EDGE_CACHE"):
        return Path(chosen)
    try:
        folder = user_cache_path("pass-edge")
    except RuntimeError as error:
        raise OSError("there is no home folder") from error
    if not folder.is_absolute():  # older versions of platformdirs leave "~" as it is
        raise OSError("there is no home folder")
    return folder


def load(kind: str, key: str) -> Any | None:
    """Return the value stored under ``key``; None if there is none, it cannot be read, or it is damaged."""
    try:
        entry = json.loads(_file(kind, key).read_text("utf-8"))
        return entry["value"] if entry["sha256"] == _digest(key, entry["value"]) else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def load_or_measure(kind: str, key: str, measure: Callable[[], T]) -> T:
    """Return the JSON value stored under ``key``. If there is none, measure and store it."""
    value: T | None = load(kind, key)
    if value is None:
        value = measure()
        store(kind, key, value)
    return value


def store(kind: str, key: str, value: Any) -> None:
    """Store a JSON value for later runs. Where it cannot be written, only ``take_problem`` tells so."""
    temporary = None
    try:
        file = _file(kind, key)
        temporary = file.with_suffix(f".{os.getpid()}")
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"value": value, "sha256": _digest(key, value)}), "utf-8")
        os.replace(temporary, file)
    except OSError as error:
        where = f" in {temporary.parent}" if temporary else ""
        problem = (
            f"measurements of this machine cannot be kept{where} ({error.strerror or error}), so they are "
            "repeated each time; the environment variable PASS_EDGE_CACHE names another folder for them"
        )
        _problems[:] = [problem]
        with suppress(OSError):
            if temporary:
                temporary.unlink()


def take_problem() -> str:
    """Return why measurements could not be kept since the last call, as a sentence; "" if they were."""
    return _problems.pop() if _problems else ""


def library_key() -> str:
    """Return a key that changes with the llama.cpp build, the devices it finds, the kernels in use, and
    ggml's environment variables."""
    stat = library_path().stat()
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("GGML_"))
    build = f"{library_path()} {stat.st_size} {stat.st_mtime_ns} {system_info()} {kernels()}"
    return " ".join([build, *device_names(), *variables])


def model_key(path: Path) -> str:
    """Return a key that changes with the model file, or with a piece of a split one."""
    stats = [piece.stat() for piece in pieces_of(path) if piece.exists()]
    return " ".join([str(path.resolve()), *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)])


def run_key(path: Path, settings: Settings) -> str:
    """Return a key that changes with everything that decides how fast a model runs, and to which bits."""
    threads = settings.threads or f"up to {default_threads()}"
    return (
        f"{library_key()} {model_key(path)} {threads} {settings.gpu_layers} "
        f"{settings.cache_type_k} {settings.cache_type_v} {settings.flash_attn}"
    )


def _file(kind: str, key: str) -> Path:
    return cache_folder() / f"{kind}-{_hash(key)[:32]}.json"


def _digest(key: str, value: Any) -> str:
    """Return what tells a damaged entry, and one of another key."""
    return _hash(f"{key} {json.dumps(value)}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()  # paths may be no UTF-8
