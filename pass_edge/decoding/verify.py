"""Verification: which drafted tokens are accepted, by one of two rules. Both leave the model's distribution
unchanged.

Notation: p, the target distribution at a node; q, the distribution its children were drafted from;
y, the token chosen at a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pass_edge.drafting.tree import DraftTree
from pass_edge.sampling.noise import ACCEPT, RESAMPLE, uniform
from pass_edge.sampling.sampler import Distribution, Logits, Sampler


@dataclass(frozen=True)
class Verdict:
    """``path``: the accepted nodes, the root first. ``token``: the token that the model chose after them."""

    path: tuple[int, ...]
    token: int


def by_sampling(
    tree: DraftTree, logits: Logits, sampler: Sampler, position: int, history: Sequence[int]
) -> Verdict:
    """Choose each token as plain decoding would, and follow the tree while it drafted that token.

    ``logits``: (≥ n nodes, n_vocab) float32, a row for each node; ``position``: of the token after the root;
    ``history``: the tokens up to and including the root. The noise is keyed by position, so y does not
    depend on the draft (Daliri, Musco, Suresh 2024, arXiv 2408.07978).
    """
    path, history = [0], list(history)
    while True:
        y = sampler.choose(logits[path[-1]], position, history)
        child = tree.child_with(path[-1], y)
        if child is None:
            return Verdict(tuple(path), y)
        path.append(child)
        history.append(y)
        position += 1


def by_rejection(
    tree: DraftTree, logits: Logits, sampler: Sampler, position: int, history: Sequence[int]
) -> Verdict:
    """Accept a drafted token x with probability min(1, p(x) / q(x)), else continue with p := norm((p - q)+)
    and q without x.

    Arguments as for ``by_sampling``. The rule of the PaSS paper (arXiv 2311.13581, section 3), for
    several children drawn without replacement (multi-candidate; arXiv 2401.06706).
    """
    path, history = [0], list(history)
    while True:
        p = sampler.distribution(logits[path[-1]], history)
        child, p = _first_accepted(tree, path[-1], p, sampler.seed, position)
        if child is None:
            return Verdict(tuple(path), p.draw(sampler.seed, position, RESAMPLE))
        path.append(child)
        history.append(tree.tokens[child])
        position += 1


def _first_accepted(
    tree: DraftTree, node: int, p: Distribution, seed: int, position: int
) -> tuple[int | None, Distribution]:
    q: Distribution | None = tree.proposals.get(node)
    for child in tree.children(node):
        x = np.array([tree.tokens[child]], np.int64)
        if q is None:  # every token of q was rejected
            break
        if uniform(seed, position, ACCEPT, x)[0] * q.of(x)[0] < p.of(x)[0]:
            return child, p
        # p - q vanishes only by rounding; then p equals q, and p itself is right
        p = p.minus(q) or p
        q = q.without(int(x[0]))
    return None, p


RULES = {"sampling": by_sampling, "rejection": by_rejection}
