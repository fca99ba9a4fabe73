"""How often drafts would be right, against what the model itself finds most likely, on held-out texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from .frozen import FrozenModel, Text

LOOKAHEAD, HEAD, HIDDEN = "lookahead", "lookahead + head", "hidden head"
"""What drafts."""
_AT_ONCE = 64
"""Anchors run at once; only memory depends on it."""
_TOP = 3


@dataclass(frozen=True)
class Shares:
    """Of ``anchors`` positions, the share where the draft is right. ``top_1``, ``top_3``: (L,), by depth,
    where what comes before is as in the text. ``both``: at depths 1 and 2 (0 if L is 1)."""

    anchors: int
    top_1: tuple[float, ...]
    top_3: tuple[float, ...]
    both: float

    @classmethod
    def of(cls, ranks: torch.Tensor) -> Shares:
        """``ranks``: (anchors, L), how many tokens the draft put before the right one."""
        first = ranks == 0
        both = first[:, :2].all(1).float().mean().item() if ranks.shape[1] > 1 else 0.0
        return cls(len(ranks), _by_depth(first), _by_depth(ranks < _TOP), both)


Measured: TypeAlias = dict[str, Shares]
"""By what drafted."""


def acceptance(
    frozen: FrozenModel, texts: Sequence[Text], embeddings: torch.Tensor, prefix: torch.Tensor
) -> Measured:
    """Of "lookahead": drafts behind every position of the answers in ``texts`` that has L more tokens behind
    it."""
    with torch.no_grad():
        parts = [ranks for text in texts for ranks in _ranks(frozen, text, embeddings, prefix)]
    return {LOOKAHEAD: Shares.of(torch.cat(parts))}


def _ranks(
    frozen: FrozenModel, text: Text, embeddings: torch.Tensor, prefix: torch.Tensor
) -> Iterator[torch.Tensor]:
    """For some anchors at once, (A, L): how many tokens the drafts put before the right one."""
    reading, length = frozen.read(text.ids), len(embeddings)
    right = frozen.logits(reading.hidden[text.prompt :]).argmax(-1)
    anchors = torch.arange(text.prompt - 1, len(text.ids) - length, device=frozen.device)
    for some in anchors.split(_AT_ONCE):
        drafted = some[:, None] + torch.arange(1, length + 1, device=frozen.device)
        states = frozen.look_ahead(reading, some, embeddings, prefix)
        yield rank(frozen.logits(states), right[drafted - text.prompt])


def rank(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How many tokens stand before the ``wanted`` (…) ones in (…, n) ``logits``."""
    chosen = logits.gather(-1, wanted[..., None])
    # what has no chance at all has nothing behind it
    return torch.where(chosen[..., 0] == -torch.inf, logits.shape[-1], (logits > chosen).sum(-1))


def _by_depth(right: torch.Tensor) -> tuple[float, ...]:
    return tuple(right.float().mean(0).tolist())
