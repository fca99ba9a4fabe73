"""How good drafts are on texts that nobody learnt from, source by source, and what trees of them would gain.

Places in the answers are anchors: what comes before is as in the text, and a draft is right if it is what
the model found likeliest there, in llama.cpp itself.
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
from .text import Answered

UNION = "union"
_RANKS = 16
_AT_ONCE = 64


@dataclass(frozen=True)
class Drafts:
    """Of ``anchors`` places, ``shares`` (depths, ranks): how often the draft's rank-th best token at a depth
    is the right one; ``both``: how often the best ones at depths 1 and 2 are. ``rows``: lookahead tokens that
    a node needs for each depth."""

    anchors: int
    shares: npt.NDArray[np.float64]
    both: float
    rows: int

    @classmethod
    def of(cls, ranks: torch.Tensor, rows: int) -> Drafts:
        """``ranks``: (anchors, depths)."""
        shares = [(ranks == r).double().mean(0) for r in range(_RANKS)]
        both = (ranks[:, :2] == 0).all(1).double().mean().item()
        return cls(len(ranks), torch.stack(shares, 1).numpy(), both, rows)

    def tokens_per_pass(self, batch: int) -> float:
        """What the best tree of at most ``batch`` rows yields on average, taking depths as independent."""
        depths = range(1, len(self.shares) + 1)
        return max(1 + _best_tree(self.shares[:d], batch // (1 + self.rows * d)) for d in depths)


def _best_tree(shares: npt.NDArray[np.float64], nodes: int) -> float:
    """The expected number of accepted nodes below the root of the best tree of ``nodes`` with the root: nodes
    are added by their chance of being accepted, which below a node is only smaller."""
    total, waiting = 0.0, [(-float(shares[0, 0]), 0, 0, 1.0)]
    for _ in range(nodes - 1):
        if not waiting:
            break
        chance, depth, place, parent = heapq.heappop(waiting)
        total -= chance
        if place + 1 < shares.shape[1]:
            heapq.heappush(waiting, (-parent * float(shares[depth, place + 1]), depth, place + 1, parent))
        if depth + 1 < len(shares):
            heapq.heappush(waiting, (chance * float(shares[depth + 1, 0]), depth + 1, 0, -chance))
    return total


def measure(
    frozen: FrozenModel, texts: Iterable[Answered], lookahead: Lookahead, every: int = 1
) -> dict[str, Drafts]:
    """The drafts of each source that ``lookahead`` has, and of all of them mixed, at ``every`` so manieth
    place of each text."""
    sources = _Sources(frozen, lookahead, every)
    found: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for text in texts:
            for name, ranks in sources.ranks(text):
                found.setdefault(name, []).append(ranks)
    rows = {LOOKAHEAD: 1, HEAD: 1, HIDDEN: 0, UNION: 1}
    return {name: Drafts.of(torch.cat(parts), rows[name]) for name, parts in found.items()}


class _Sources:
    def __init__(self, frozen: FrozenModel, lookahead: Lookahead, every: int) -> None:
        def tensor(array: npt.NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(np.array(array)).to(frozen.device)  # a copy: files are mapped read-only

        def head(weights: HeadWeights | None) -> DraftHead | None:
            return DraftHead.of(weights).to(frozen.device) if weights else None

        self._frozen = frozen
        self._embeddings = tensor(lookahead.embeddings)
        self._prefix = tensor(lookahead.embeddings[:0] if lookahead.prefix is None else lookahead.prefix)
        self._head, self._hidden = head(lookahead.head), head(lookahead.hidden_head)
        self._candidates = tensor(lookahead.candidates.astype(np.int64))
        self._depth, self._every = len(lookahead) or DEPTH, every

    def ranks(self, text: Answered) -> Iterator[tuple[str, torch.Tensor]]:
        """For some anchors at once, by source: (anchors, depths)."""
        frozen, depth = self._frozen, self._depth
        places = torch.arange(0, max(0, len(text.likely) - depth), self._every, device=frozen.device)
        if not len(places):  # an answer as short as a draft
            return
        reading = frozen.read(text.ids) if len(self._embeddings) else None
        ids = torch.from_numpy(text.ids.astype(np.int64)).to(frozen.device)
        likeliest = torch.from_numpy(text.likely[:, 0].astype(np.int64)).to(frozen.device)
        hidden = torch.from_numpy(text.hidden.astype(np.float32)).to(frozen.device)
        for some in places.split(_AT_ONCE):
            drafted = some[:, None] + torch.arange(1, depth + 1, device=frozen.device)
            before = frozen.embed(ids[text.prompt - 1 + drafted])
            start = hidden[some, None]
            opinions: dict[str, torch.Tensor] = {}
            if reading is not None:
                anchors = some + text.prompt - 1
                outputs = frozen.look_ahead(reading, anchors, self._embeddings, self._prefix)
                opinions[LOOKAHEAD] = frozen.logits(outputs)
                if self._head:
                    states = torch.cat([start, outputs], 1)
                    opinions[HEAD] = self._among(self._head.along(states, before))
            if self._hidden:
                opinions[HIDDEN] = self._among(self._hidden.along(start, before))
            if HIDDEN in opinions and reading is not None:
                first = opinions.get(HEAD, opinions[LOOKAHEAD])
                opinions[UNION] = torch.logaddexp(first.log_softmax(-1), opinions[HIDDEN].log_softmax(-1))
            for name, logits in opinions.items():
                yield name, rank(logits, likeliest[drafted])

    def _among(self, by_depth: Iterator[torch.Tensor]) -> torch.Tensor:
        states = torch.stack(list(by_depth), 1)
        logits = torch.full((*states.shape[:-1], self._frozen.n_vocab), -torch.inf, device=states.device)
        logits[..., self._candidates] = self._frozen.logits(states, self._candidates)
        return logits
