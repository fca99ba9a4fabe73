"""Download model files from Hugging Face's hub, as `Llama.from_pretrained` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from pass_edge.models.hub import fetch, list_repository
from pass_edge.models.names import HubName
from pass_edge.native.errors import SettingsError


def download(
    repo_id: str,
    patterns: Sequence[str],
    *,
    local_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> str:
    """Download the one file that matches each of ``patterns`` (names, or globs such as ``*q4_0.gguf``),
    unless it is there. Return the path of the first. Raises SettingsError if none or several files match a
    pattern, ModelError if the hub does not give them, OutputError."""
    repository = list_repository(HubName(repo_id))
    names = [_only_match(list(repository.sizes), pattern, repo_id) for pattern in patterns]
    cache, folder = (Path(each) if each else None for each in (cache_dir, local_dir))
    return str(fetch(repository, names, cache=cache, folder=folder)[0])


def _only_match(names: Sequence[str], pattern: str, repo_id: str) -> str:
    found = [name for name in names if fnmatch(name, pattern)]
    if len(found) != 1:
        which = "no file matches" if not found else "several files match"
        raise SettingsError(
            f"{which} {pattern!r} in {repo_id}; its files are {json.dumps(found or list(names))}"
        )
    return found[0]
