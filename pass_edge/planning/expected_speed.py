"""What drafts should gain on this machine, by the measured costs and a share of right drafts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np

from pass_edge.drafting.heads import Heads
from pass_edge.drafting.lookahead import Lookahead
from pass_edge.native.devices import default_threads
from pass_edge.native.embeddings import TokenEmbeddings

from .cost_model import StepCosts


def expected_speed(costs: StepCosts, draft_seconds: float, rates: Sequence[float]) -> float:
    """Return how many times as fast as plain decoding it is to draft chains of the best length, if each
    drafted token takes ``draft_seconds``. ``rates``: by depth, the probability that a draft is right where
    all before it are; the last one holds for all deeper drafts."""
    seconds = costs.at(0)
    depths = np.arange(1, len(seconds))
    by_depth = np.asarray(rates)[np.minimum(depths, len(rates)) - 1]
    tokens = 1 + np.cumsum(np.cumprod(by_depth))
    return float((tokens * seconds[0] / (seconds[1:] + depths * draft_seconds)).max())


def hidden_head_seconds(lookahead: Lookahead, embeddings: TokenEmbeddings, costs: StepCosts) -> float:
    """Measure the seconds of one draft of ``lookahead``'s hidden head on the CPU. ``embeddings``: of the
    model. Raises LibraryError."""
    threads = costs.threads[0] if costs.threads else default_threads()
    with closing(Heads(lookahead, embeddings, threads=threads, correct_lookahead=False)) as heads:
        return heads.step_seconds()
