"""Lookaheads with random heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pass_edge import Lookahead
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.models.sidecars import shipped_sidecars
from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.embeddings import TokenEmbeddings

WIDTH, N_VOCAB = 64, 12


def random_head(seed: int, n_embd: int = WIDTH, width: int = 96, inputs: int = 2) -> HeadWeights:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    n_input = inputs * n_embd
    return HeadWeights.quantize(matrix(width, n_input), matrix(width, n_input), matrix(n_embd, width))


def lookahead_for(model: Path, **parts: object) -> Lookahead:
    embeddings = TokenEmbeddings(model).rows(np.array([2, 5], np.int32))
    return Lookahead(
        embeddings=embeddings if parts.pop("rows", True) else embeddings[:0],
        base=read_base(model),
        candidates=np.array([0, 1, 2, 3, 5, 7, 8, 9, 11], np.int32),
        **parts,  # type: ignore[arg-type]
    )


def default_sidecar() -> Path:
    """Return the shipped lookahead file of the default model."""
    return next(path for path in shipped_sidecars() if path.name.startswith("smollm2"))
