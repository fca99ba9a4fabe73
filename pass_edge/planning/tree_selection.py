"""What drafts are worth in the next pass, and which part of a draft is worth most (docs/planner.md)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pass_edge.drafting.tree import NO_DRAFT, Draft
from pass_edge.sampling.sampler import Distribution

_REMEMBERED = 0.97
"""Of the pace, at each pass: it follows the text within some thirty."""


class DraftBuilder:
    """A draft that grows: what two sources say alike is one node."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._chances: list[float] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._proposals: dict[int, Distribution] = {}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    @property
    def likeliest(self) -> float:
        """The chance of the likeliest node; 0 without any."""
        return max(self._chances, default=0.0)

    def add(self, parent: int, token: int, chance: float, proposal: Distribution | None) -> int:
        """The node of ``token`` below ``parent``, drawn from ``proposal``."""
        number = self._numbers.get((parent, token))
        if number is not None:
            self._chances[number - 1] = max(self._chances[number - 1], chance)
            return number
        self._tokens.append(token)
        self._parents.append(parent)
        self._chances.append(chance)
        self._numbers[parent, token] = len(self._tokens)
        if proposal:
            self._proposals[parent] = proposal
        return len(self._tokens)

    def draft(self) -> Draft:
        return Draft(tuple(self._tokens), tuple(self._parents), tuple(self._chances), self._proposals)


class TreeSelector:
    """What drafts are worth in the next pass, which ``sharing`` conversations share."""

    def __init__(
        self,
        seconds: np.ndarray,
        pace: Throughput,
        sharing: int = 1,
        sizes: Sequence[int] = (),
        switching: float = 0.0,
    ) -> None:
        """``seconds`` (n,): of passes with 1, 2, … n rows of this conversation, and what others take besides:
        a row's price is what it adds to theirs. ``sizes``: as the Planner's. ``switching``: seconds more of a
        pass that drafts another number of nodes than ``drafted`` ones, which is to be set."""
        self.sharing, self.drafted = sharing, 0
        self.pace = max(pace.tokens_per_second, sharing / seconds[0])
        self._switching = self.pace * switching
        self._prices: list[float] = (self.pace * (seconds - seconds[0])).tolist()
        self.most = len(seconds) - 1
        self._counts: Collection[int] = (
            {*(size - 1 for size in sizes), self.most} if sizes else range(1, len(seconds))
        )
        """How many nodes may be drafted, if any are."""
        prices = np.array(self._prices)
        ways = _ways(len(seconds), tuple(self._counts))
        self.least: list[float] = (
            ((prices - prices[:, None]) * ways).min(axis=1, initial=1.0, where=ways > 0).tolist()
        )
        """Behind n drafts that are likelier, one more pays in no company if its chance is less."""

    def _best(self, draft: Draft, looks: int = 0) -> tuple[float, int]:
        """What the likeliest nodes are worth, and how many of them are worth most, with ``looks`` lookahead
        tokens at each and at the root; more than there are where that is as many as last time."""
        prices = self._prices[looks :: looks + 1]
        best, count, hoped = -prices[0] - self._switching * (self.drafted != 0), 0, 0.0
        for n, chance in enumerate(sorted(draft.chances, reverse=True)[: len(prices) - 1], 1):
            hoped += chance
            worth = hoped - prices[n] - self._switching * (self.drafted != n)
            if worth > best and n in self._counts:
                best, count = worth, n
        if len(draft.tokens) < self.drafted < len(prices) and hoped - prices[self.drafted] > best:
            best, count = hoped - prices[self.drafted], self.drafted
        return best, count

    def worth(self, draft: Draft) -> float:
        """Tokens that the best part of ``draft`` gains over none."""
        return self._best(draft)[0]

    def best(self, draft: Draft, looks: int, root: int) -> Draft:
        """The part of ``draft`` behind ``root`` that is worth most, or all of it and what fills it up."""
        count = self._best(draft, looks)[1]
        return draft.best(count).filled(root, count) if count else NO_DRAFT


@lru_cache
def _ways(widest: int, counts: tuple[int, ...]) -> np.ndarray:
    """(widest, widest): from n drafts to m of ``counts``, 1 / (m - n) where these are more, else 0."""
    n = np.arange(widest)
    more = n - n[:, None]
    return ((more > 0) & np.isin(n, counts)) / np.maximum(more, 1)


@dataclass
class Throughput:
    """Tokens a second lately, of all conversations that share passes, as if the others drafted nothing."""

    tokens: float = 0.0
    seconds: float = 0.0

    def count(self, tokens: int, seconds: float) -> None:
        self.tokens = self.tokens * _REMEMBERED + tokens
        self.seconds = self.seconds * _REMEMBERED + seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0
