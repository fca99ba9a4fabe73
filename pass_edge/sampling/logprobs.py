"""Log-probabilities of the tokens of an answer, under the model's own distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .sampler import Logits, top_tokens


@dataclass(frozen=True)
class Logprob:
    """Natural logarithms of probabilities under the model's own softmax: without temperature, filters, logit
    bias and grammar. ``logprob`` is that of the chosen ``token``. ``top``: the most likely tokens with their
    log-probabilities, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprob_of(token: int, logits: Logits, n_top: int) -> Logprob:
    """Return the log-probability of ``token`` under ``logits``, (n_vocab,) float32, with those of the
    ``n_top`` most likely tokens."""
    highest = float(logits.max())
    total = highest + float(np.log(np.exp(logits.astype(np.float64) - highest).sum()))
    top = top_tokens(logits, n_top) if n_top else ()
    return Logprob(
        token,
        float(logits[token]) - total,
        tuple((int(top_token), float(logits[top_token]) - total) for top_token in top),
    )
