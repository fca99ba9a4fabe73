"""Download model files from the Hugging Face Hub, as `Llama.from_pretrained` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

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
    pattern, ImportError without the package huggingface-hub."""
    try:
        from huggingface_hub import hf_hub_download, list_repo_files
    except ImportError:
        raise ImportError("from_pretrained needs huggingface-hub: pip install huggingface-hub") from None
    there = list_repo_files(repo_id)
    names = [_only_match(there, pattern, repo_id) for pattern in patterns]
    first, *_ = (hf_hub_download(repo_id, name, local_dir=local_dir, cache_dir=cache_dir) for name in names)
    return first


def _only_match(names: Sequence[str], pattern: str, repo_id: str) -> str:
    found = [name for name in names if fnmatch(name, pattern)]
    if len(found) != 1:
        which = "no file matches" if not found else "several files match"
        raise SettingsError(
            f"{which} {pattern!r} in {repo_id}; its files are {json.dumps(found or list(names))}"
        )
    return found[0]
