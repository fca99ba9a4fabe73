"""Draft with a grammar: tokens that it forces are certain, and tokens that it forbids are not drafted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pass_edge.sampling.sampler import Distribution, Sampler

from .tree_selection import DraftBuilder

_MAX_LEAVES = 4
"""Leaves that are continued with forced tokens: each takes some 50 µs to ask about."""


class GrammarGuide:
    """What the sampler's grammar, if it has one, says of the nodes of one draft."""

    def __init__(
        self, sampler: Sampler, history: Sequence[int], builder: DraftBuilder, *, by_rejection: bool
    ) -> None:
        """``history`` ends with the root of the draft that ``builder`` holds."""
        self._sampler, self._history, self._builder = sampler, history, builder
        self._by_rejection = by_rejection
        self._is_constrained = sampler is not sampler.unconstrained
        self._forced: dict[int, int | None] = {}

    def forces(self, node: int) -> bool:
        """Return whether the token below ``node`` is certain."""
        return self._is_constrained and self._forced_below(node) is not None

    def rate(self, node: int, token: int, rate: float) -> float:
        """Return the acceptance rate of ``token`` below ``node``, which is ``rate`` without a grammar."""
        if not self._is_constrained:
            return rate
        forced = self._forced_below(node)
        if forced is not None:
            return float(token == forced)
        allows = self._sampler.allows(self._history, self._builder.path(node), token)
        return rate if allows else 0.0

    def draft_forced(self) -> int:
        """Add the tokens that are forced below the leaves, and return how many."""
        n_drafted = 0
        for leaf, probability in self._builder.leaves()[:_MAX_LEAVES] if self._is_constrained else ():
            node = leaf
            for token in self._sampler.forced(self._history, self._builder.path(leaf)):
                proposal = Distribution(np.array([token]), np.ones(1)) if self._by_rejection else None
                node = self._builder.add(node, token, probability, proposal)
                n_drafted += 1
        return n_drafted

    def _forced_below(self, node: int) -> int | None:
        if node not in self._forced:
            forced = self._sampler.forced(self._history, self._builder.path(node))
            self._forced[node] = forced[0] if forced else None
        return self._forced[node]
