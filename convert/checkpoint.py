"""Trained lookahead embeddings as people save them, to the sidecar file that the runtime reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from pass_edge.lookahead import Base, Lookahead, write_sidecar
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LookaheadError
from pass_edge.native.model import Model

TENSOR = "lookahead.weight"


def convert(
    checkpoint: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    acceptance: tuple[float, ...] = (),
    training: str = "",
) -> Lookahead:
    """Write the lookahead embeddings in a safetensors ``checkpoint`` as a sidecar for ``model``.
    Raises LookaheadError, ModelError."""
    embeddings = _read(Path(checkpoint))
    with Model(model) as base_model:
        base = Base.of(base_model, TokenEmbeddings(base_model))
    if embeddings.shape[-1] != base.n_embd:
        raise LookaheadError(
            f"{checkpoint} has embeddings {embeddings.shape[-1]} wide; {base.name} takes {base.n_embd}"
        )
    lookahead = Lookahead(embeddings, base, acceptance, training)
    write_sidecar(lookahead, output)
    return lookahead


def _read(path: Path) -> np.ndarray:
    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
            if TENSOR not in names:
                raise LookaheadError(f"{path} has no tensor {TENSOR!r}; it holds {', '.join(names)}")
            return np.asarray(file.get_tensor(TENSOR), np.float32)
    except (SafetensorError, OSError) as error:
        raise LookaheadError(f"{path} is no readable safetensors file: {error}") from error
