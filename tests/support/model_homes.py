"""Home folders in which other programs keep models, laid out as these programs do it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

_VARIABLES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT",
    "HF_TOKEN_PATH", "LLAMA_CACHE", "OLLAMA_MODELS", "PASS_EDGE_MODELS", "PASS_EDGE_DATA", "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
)  # fmt: skip


def use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``home`` the home folder, and forget the variables that name other places."""
    home.mkdir(parents=True)
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PASS_EDGE_CACHE", str(home / "measured"))
    monkeypatch.setattr("pass_edge.models.local_stores.installed_default", lambda: None)
    return home


def put(path: Path, source: Path | bytes = b"GGUF") -> Path:
    """Put a copy of ``source`` at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        shutil.copy(source, path)
    else:
        path.write_bytes(source)
    return path


def put_in_hub_cache(
    cache: Path, repository: str, file: str, source: Path | bytes, commit: str = "1" * 40
) -> Path:
    """As huggingface-hub and recent versions of llama.cpp do: a blob, and a link to it in a snapshot."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    content = source.read_bytes() if isinstance(source, Path) else source
    blob = put(folder / "blobs" / hashlib.sha256(content).hexdigest(), content)
    pointer = folder / "snapshots" / commit / file
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.symlink_to(blob)
    put(folder / "refs" / "main", commit.encode())
    return pointer


def put_in_old_llama_cpp(cache: Path, repository: str, file: str, source: Path | bytes) -> Path:
    """As llama.cpp did before: one flat folder, and a manifest for each name that was asked for."""
    name = f"manifest={repository.replace('/', '=')}=latest.json"
    put(cache / name, json.dumps({"ggufFile": {"rfilename": file}}).encode())
    return put(cache / f"{repository}_{file}".replace("/", "_"), source)


def put_in_ollama(
    folder: Path, name: str, source: Path | bytes, *, adapter: bool = False, kind: str = "model"
) -> Path:
    """``name``: HOST/NAMESPACE/MODEL/TAG."""
    content = source.read_bytes() if isinstance(source, Path) else source
    digest = hashlib.sha256(content).hexdigest()
    media = "application/vnd.ollama.image"
    layers = [{"mediaType": f"{media}.{kind}", "digest": f"sha256:{digest}"}]
    layers += [{"mediaType": f"{media}.adapter", "digest": f"sha256:{'0' * 64}"}] if adapter else []
    layers += [{"mediaType": f"{media}.template", "digest": f"sha256:{'1' * 64}"}]
    put(folder / "manifests" / name, json.dumps({"schemaVersion": 2, "layers": layers}).encode())
    return put(folder / "blobs" / f"sha256-{digest}", content)
