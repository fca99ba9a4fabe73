"""Acceptance on held-out texts: how often a draft is the token that the model itself finds most likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from .frozen import FrozenModel, Text

LOOKAHEAD, HEAD, HIDDEN = "lookahead", "lookahead + head", "hidden head"
"""The sources of drafts."""
_BATCH = 64
"""Anchors run at a time; only memory depends on it."""
_TOP = 3


@dataclass(frozen=True)
class Acceptance:
    """Acceptance of drafts at ``anchors`` positions. ``top_1``, ``top_3``: (L,), by depth, how often the
    right token is the best one, or one of the three best, given the true tokens before it. ``both``: how
    often the drafts at depths 1 and 2 are both right (0 if L is 1)."""

    anchors: int
    top_1: tuple[float, ...]
    top_3: tuple[float, ...]
    both: float

    @classmethod
    def from_ranks(cls, ranks: torch.Tensor) -> Acceptance:
        """``ranks``: (anchors, L), how many tokens the draft ranks before the right one."""
        best = ranks == 0
        both = best[:, :2].all(1).float().mean().item() if ranks.shape[1] > 1 else 0.0
        return cls(len(ranks), _mean_by_depth(best), _mean_by_depth(ranks < _TOP), both)


AcceptanceBySource: TypeAlias = dict[str, Acceptance]


def lookahead_acceptance(
    frozen: FrozenModel, texts: Sequence[Text], embeddings: torch.Tensor, prefix: torch.Tensor
) -> AcceptanceBySource:
    """Measure the source "lookahead" at every position of the answers in ``texts`` that L more tokens follow.

    ``embeddings``: (L, n_embd); ``prefix``: (P, n_embd).
    """
    with torch.no_grad():
        parts = [ranks for text in texts for ranks in _ranks(frozen, text, embeddings, prefix)]
    return {LOOKAHEAD: Acceptance.from_ranks(torch.cat(parts))}


def _ranks(
    frozen: FrozenModel, text: Text, embeddings: torch.Tensor, prefix: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yield (A, L) for A anchors at a time: how many tokens the drafts rank before the right one."""
    reading, length = frozen.read(text.ids), len(embeddings)
    right = frozen.logits(reading.hidden[text.prompt_length :]).argmax(-1)
    anchors = torch.arange(text.prompt_length - 1, len(text.ids) - length, device=frozen.device)
    for batch in anchors.split(_BATCH):
        drafted = batch[:, None] + torch.arange(1, length + 1, device=frozen.device)
        states = frozen.look_ahead(reading, batch, embeddings, prefix)
        yield rank(frozen.logits(states), right[drafted - text.prompt_length])


def rank(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how many tokens rank before the ``targets`` (…) in (…, n) ``logits``; n for a target of -inf."""
    chosen = logits.gather(-1, targets[..., None])
    return torch.where(chosen[..., 0] == -torch.inf, logits.shape[-1], (logits > chosen).sum(-1))


def _mean_by_depth(right: torch.Tensor) -> tuple[float, ...]:
    return tuple(right.float().mean(0).tolist())
