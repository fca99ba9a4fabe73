"""How often drafts would be right, against what the model itself finds most likely, on held-out texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .frozen import FrozenModel, Text
from .head import DraftHead

_AT_ONCE = 64
"""Anchors run at once; only memory depends on it."""
_TOP = 3


@dataclass(frozen=True)
class Shares:
    """Of all anchors, the share where the draft is right. ``top_1``, ``top_3``: (L,), by depth, where what
    comes before is as in the text. ``both``: at depths 1 and 2 (0 if L is 1)."""

    top_1: tuple[float, ...]
    top_3: tuple[float, ...]
    both: float


@dataclass(frozen=True)
class Acceptance:
    """On ``anchors`` positions: of lookahead outputs ``alone``, and ``with_head`` if there is one."""

    anchors: int
    alone: Shares
    with_head: Shares | None

    def numbers(self) -> dict[str, Any]:
        """As plain numbers, for files; `of` reads them."""
        return asdict(self)

    @classmethod
    def of(cls, numbers: dict[str, Any]) -> Acceptance:
        alone, with_head = numbers["alone"], numbers["with_head"]
        return cls(numbers["anchors"], Shares(**alone), Shares(**with_head) if with_head else None)


def acceptance(
    frozen: FrozenModel,
    texts: Sequence[Text],
    embeddings: torch.Tensor,
    prefix: torch.Tensor,
    head: DraftHead | None = None,
) -> Acceptance:
    """Drafts behind every position of the answers in ``texts`` that has L more tokens behind it."""
    alone, with_head = [], []
    with torch.no_grad():
        for text in texts:
            for ranks, corrected in _ranks(frozen, text, embeddings, prefix, head):
                alone.append(ranks)
                with_head.append(corrected)
    anchors = sum(map(len, alone))
    return Acceptance(anchors, _shares(alone), _shares(with_head) if head else None)


def _ranks(
    frozen: FrozenModel,
    text: Text,
    embeddings: torch.Tensor,
    prefix: torch.Tensor,
    head: DraftHead | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For some anchors at once, (A, L): how many tokens the drafts put before the right one."""
    reading, length = frozen.read(text.ids), len(embeddings)
    right = frozen.logits(reading.hidden[text.prompt :]).argmax(-1)
    anchors = torch.arange(text.prompt - 1, len(text.ids) - length, device=frozen.device)
    for some in anchors.split(_AT_ONCE):
        drafted = some[:, None] + torch.arange(1, length + 1, device=frozen.device)
        wanted = right[drafted - text.prompt]
        states = frozen.look_ahead(reading, some, embeddings, prefix)
        ranks = _rank(frozen.logits(states), wanted)
        corrected = head(states, frozen.embed(reading.ids[drafted])) if head else states
        yield ranks, _rank(frozen.logits(corrected), wanted) if head else ranks


def _rank(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (logits > logits.gather(-1, wanted[..., None])).sum(-1)


def _shares(parts: Sequence[torch.Tensor]) -> Shares:
    ranks = torch.cat(list(parts))
    first = ranks == 0
    both = first[:, :2].all(1).float().mean().item() if ranks.shape[1] > 1 else 0.0
    return Shares(_by_depth(first), _by_depth(ranks < _TOP), both)


def _by_depth(right: torch.Tensor) -> tuple[float, ...]:
    return tuple(right.float().mean(0).tolist())
