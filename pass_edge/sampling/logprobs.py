"""How likely the model itself held the tokens of an answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .sampler import Logits, best


@dataclass(frozen=True)
class Logprob:
    """Natural logarithms of probabilities under the model's own softmax: no temperature, no filter, no
    bias, no grammar. ``token`` was chosen, at ``logprob``; ``top``: the likeliest tokens with theirs, best
    first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprob_of(token: int, logits: Logits, alternatives: int) -> Logprob:
    """``token`` chosen from ``logits`` (n_vocab,) float32, with so many ``alternatives``."""
    highest = float(logits.max())
    total = highest + float(np.log(np.exp(logits.astype(np.float64) - highest).sum()))
    top = best(logits, alternatives) if alternatives else ()
    return Logprob(
        token,
        float(logits[token]) - total,
        tuple((int(other), float(logits[other]) - total) for other in top),
    )
