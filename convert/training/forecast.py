"""How long a training takes on this machine, told beforehand, and what its drafts gain, told as it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pass_edge.drafting.lookahead import Base, Lookahead
from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.expected_speed import expected_speed, hidden_head_seconds

from .acceptance import Acceptance
from .device import fastest_dtype
from .heads import ANCHORS
from .recipe import Recipe
from .text import ANSWERS_AT_ONCE

_BACKWARD = 2
"""Multiplications backwards for each forwards, for a matrix that learns; 1 for one that does not."""


@dataclass(frozen=True)
class Gain:
    """What a hidden head gains: ``costs`` of passes, and the seconds of one draft of the head."""

    costs: StepCosts
    head_seconds: float

    @classmethod
    def measure(
        cls, costs: StepCosts, model: Path, base: Base, candidates: npt.NDArray[np.int32], width: int
    ) -> Gain:
        """Time a head of ``width`` that has learned nothing yet: it takes as long."""
        n_embd = base.n_embd
        shapes = (width, 2 * n_embd), (width, 2 * n_embd), (n_embd, width)
        lookahead = Lookahead(
            embeddings=np.zeros((0, n_embd), np.float32),
            base=base,
            hidden_head=HeadWeights.quantize(*(np.zeros(shape, np.float32) for shape in shapes)),
            candidates=candidates,
        )
        return cls(costs, hidden_head_seconds(lookahead, TokenEmbeddings(model), costs))

    def speed(self, acceptance: Acceptance) -> float:
        """Return the speed of chains of its drafts, as a multiple of plain decoding's."""
        return expected_speed(self.costs, self.head_seconds, acceptance.top_1)


def text_seconds(costs: StepCosts, prompts: Sequence[Sequence[int]], max_tokens: int) -> float:
    """Return how long it takes at most to read ``prompts`` and to answer them."""
    widest = min(ANSWERS_AT_ONCE, costs.widest)
    row_seconds = float(costs.at(max_tokens)[widest - 1]) / widest
    return row_seconds * sum(len(prompt) + max_tokens for prompt in prompts)


def training_seconds(recipe: Recipe, n_embd: int, device: torch.device) -> float:
    """Return about how long the training of the hidden head takes, by the time of one product of its size."""
    if not recipe.hidden_width:
        return 0.0
    drafts = ANCHORS * recipe.head_depth
    states = torch.zeros(drafts, n_embd, device=device, dtype=fastest_dtype(device))
    rows = torch.zeros(recipe.candidates, n_embd, device=device, dtype=states.dtype)
    seconds = []
    for _ in range(2):  # the first one may load a library
        began = time.perf_counter()
        (states @ rows.T).sum().item()
        seconds.append(time.perf_counter() - began)
    head = 5 * recipe.hidden_width / recipe.candidates  # its weights, to those of the output
    return recipe.head_steps * min(seconds) * (2 + (1 + _BACKWARD) * head)


def rounded_time(seconds: float) -> str:
    """Return ``seconds`` as people say it: "40 minutes", "2.5 hours"."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}" if minutes < 100 else f"{seconds / 3600:.1f} hours"
