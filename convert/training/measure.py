"""Accuracy of drafts on texts that were not trained on, by source, and the tokens per pass of draft trees.

Positions in the answers are anchors: the tokens before are those of the text, and a draft is right if it is
the token that the model found most likely there, as decoded by llama.cpp.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pass_edge.drafting.lookahead import Lookahead
from pass_edge.native.draft_head import HeadWeights

from .acceptance import HEAD, HIDDEN, LOOKAHEAD, rank
from .frozen import FrozenModel
from .head import DraftHead
from .heads import DEPTH
from .text import TrainingText

UNION = "union"
_RANKS = 16
_BATCH = 64  # anchors run at a time


@dataclass(frozen=True)
class DraftAccuracy:
    """Accuracy of drafts at ``anchors`` positions. ``shares``: (depths, ranks), how often the draft's rank-th
    best token at a depth is right. ``both``: how often the best ones at depths 1 and 2 are both right.
    ``rows``: lookahead tokens per node and depth."""

    anchors: int
    shares: npt.NDArray[np.float64]
    both: float
    rows: int

    @classmethod
    def from_ranks(cls, ranks: torch.Tensor, rows: int) -> DraftAccuracy:
        """``ranks``: (anchors, depths), how many tokens the draft ranks before the right one."""
        shares = [(ranks == r).double().mean(0) for r in range(_RANKS)]
        both = (ranks[:, :2] == 0).all(1).double().mean().item()
        return cls(len(ranks), torch.stack(shares, 1).numpy(), both, rows)

    def tokens_per_pass(self, batch: int) -> float:
        """Return the average yield of the best tree of at most ``batch`` rows, if depths were independent."""
        depths = range(1, len(self.shares) + 1)
        return max(1 + _best_tree(self.shares[:d], batch // (1 + self.rows * d)) for d in depths)


def _best_tree(shares: npt.NDArray[np.float64], nodes: int) -> float:
    """Return the expected number of accepted drafts of the best tree of ``nodes``, the root included.

    Nodes are added in the order of their probability, which is never larger than their parent's.
    """
    expected, frontier = 0.0, [(-float(shares[0, 0]), 0, 0, 1.0)]  # -probability, depth, rank, the parent's
    for _ in range(nodes - 1):
        if not frontier:
            break
        negative, depth, rank, parent = heapq.heappop(frontier)
        expected -= negative
        if rank + 1 < shares.shape[1]:
            heapq.heappush(frontier, (-parent * float(shares[depth, rank + 1]), depth, rank + 1, parent))
        if depth + 1 < len(shares):
            heapq.heappush(frontier, (negative * float(shares[depth + 1, 0]), depth + 1, 0, -negative))
    return expected


def measure(
    frozen: FrozenModel, texts: Iterable[TrainingText], lookahead: Lookahead, every: int = 1
) -> dict[str, DraftAccuracy]:
    """Measure each source of drafts in ``lookahead``, and the union of all, at every ``every``-th position of
    each text."""
    sources = _Sources(frozen, lookahead, every)
    by_source: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for text in texts:
            for name, ranks in sources.ranks(text):
                by_source.setdefault(name, []).append(ranks)
    rows = {LOOKAHEAD: 1, HEAD: 1, HIDDEN: 0, UNION: 1}
    return {name: DraftAccuracy.from_ranks(torch.cat(parts), rows[name]) for name, parts in by_source.items()}


class _Sources:
    def __init__(self, frozen: FrozenModel, lookahead: Lookahead, every: int) -> None:
        def tensor(array: npt.NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(np.array(array)).to(frozen.device)  # a copy: files are mapped read-only

        def head(weights: HeadWeights | None) -> DraftHead | None:
            return DraftHead.from_weights(weights).to(frozen.device) if weights else None

        self._frozen = frozen
        self._embeddings = tensor(lookahead.embeddings)
        self._prefix = tensor(lookahead.embeddings[:0] if lookahead.prefix is None else lookahead.prefix)
        self._head, self._hidden = head(lookahead.head), head(lookahead.hidden_head)
        self._candidates = tensor(lookahead.candidates.astype(np.int64))
        self._depth, self._every = len(lookahead) or DEPTH, every

    def ranks(self, text: TrainingText) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield a source and its (anchors, depths) ranks, for some anchors at a time."""
        frozen, depth = self._frozen, self._depth
        positions = torch.arange(0, max(0, len(text.top_tokens) - depth), self._every, device=frozen.device)
        if not len(positions):  # an answer no longer than a draft
            return
        reading = frozen.read(text.ids) if len(self._embeddings) else None
        ids = torch.from_numpy(text.ids.astype(np.int64)).to(frozen.device)
        targets = torch.from_numpy(text.top_tokens[:, 0].astype(np.int64)).to(frozen.device)
        hidden = torch.from_numpy(text.hidden.astype(np.float32)).to(frozen.device)
        for batch in positions.split(_BATCH):
            drafted = batch[:, None] + torch.arange(1, depth + 1, device=frozen.device)
            before = frozen.embed(ids[text.prompt_length - 1 + drafted])
            start = hidden[batch, None]
            by_source: dict[str, torch.Tensor] = {}
            if reading is not None:
                anchors = batch + text.prompt_length - 1
                outputs = frozen.look_ahead(reading, anchors, self._embeddings, self._prefix)
                by_source[LOOKAHEAD] = frozen.logits(outputs)
                if self._head:
                    states = torch.cat([start, outputs], 1)
                    by_source[HEAD] = self._candidate_logits(self._head.draft(states, before))
            if self._hidden:
                by_source[HIDDEN] = self._candidate_logits(self._hidden.draft(start, before))
            if HIDDEN in by_source and reading is not None:
                first = by_source.get(HEAD, by_source[LOOKAHEAD])
                by_source[UNION] = torch.logaddexp(first.log_softmax(-1), by_source[HIDDEN].log_softmax(-1))
            for name, logits in by_source.items():
                yield name, rank(logits, targets[drafted])

    def _candidate_logits(self, by_depth: Iterator[torch.Tensor]) -> torch.Tensor:
        """Return the logits of a head's states, -inf for tokens that are no candidates."""
        states = torch.stack(list(by_depth), 1)
        logits = torch.full((*states.shape[:-1], self._frozen.n_vocab), -torch.inf, device=states.device)
        logits[..., self._candidates] = self._frozen.logits(states, self._candidates)
        return logits
