"""Select the most valuable tree of drafted tokens for the next pass (docs/planner.md)."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pass_edge.drafting.tree import NO_DRAFT, Draft, DraftTree, TreeLimits
from pass_edge.sampling.sampler import Distribution

_DECAY = 0.97
"""The totals of Throughput are multiplied by this at each pass, so the rate is that of some thirty passes."""

_NO_LIMITS = TreeLimits()


class DraftBuilder:
    """Builds a draft node by node. Where two sources draft the same token, there is one node."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._probabilities: list[float] = []
        self._nodes: dict[tuple[int, int], int] = {}
        self._proposals: dict[int, Distribution] = {}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    @property
    def best_probability(self) -> float:
        """The highest path probability of a node; 0 without nodes."""
        return max(self._probabilities, default=0.0)

    def add(self, parent: int, token: int, probability: float, proposal: Distribution | None) -> int:
        """Return the node of ``token`` below ``parent``, added if it does not exist yet. ``probability``: its
        path probability; of two, the higher one counts. ``proposal``: the distribution that the children of
        ``parent`` are drawn from."""
        node = self._nodes.get((parent, token))
        if node is not None:
            self._probabilities[node - 1] = max(self._probabilities[node - 1], probability)
            return node
        self._tokens.append(token)
        self._parents.append(parent)
        self._probabilities.append(probability)
        self._nodes[parent, token] = len(self._tokens)
        if proposal:
            self._proposals[parent] = proposal
        return len(self._tokens)

    def path(self, node: int) -> tuple[int, ...]:
        """Return the tokens from below the root down to ``node``."""
        tokens: list[int] = []
        while node:
            tokens.append(self._tokens[node - 1])
            node = self._parents[node - 1]
        return tuple(reversed(tokens))

    def leaves(self) -> list[tuple[int, float]]:
        """Return the nodes without children and their path probabilities, most likely first; the root if
        there are no nodes."""
        leaves = {*range(len(self._tokens) + 1)} - {*self._parents}
        probabilities = (1.0, *self._probabilities)
        return sorted(((node, probabilities[node]) for node in leaves), key=lambda leaf: -leaf[1])

    def build(self) -> Draft:
        """Return the draft with all nodes added so far."""
        return Draft(tuple(self._tokens), tuple(self._parents), tuple(self._probabilities), self._proposals)


class TreeSelector:
    """Selects the part of a draft that is worth more than its rows cost.

    Attributes: ``n_sharing``, that share the pass; ``tokens_per_second``, the throughput λ that time is
    weighed with; ``max_drafted``, most tokens that can be drafted; ``last_drafted``, how many the last pass
    drafted, which the planner sets; ``padding_spent``: what padded passes in a row up to now have cost, in
    tokens; ``min_probability``, by n: with n likelier nodes drafted, another node
    of lower path probability cannot pay, even together with further ones.
    """

    def __init__(
        self,
        seconds: np.ndarray,
        throughput: Throughput,
        n_sharing: int = 1,
        tree_sizes: Sequence[int] = (),
        rebuild_seconds: float = 0.0,
        limits: TreeLimits = _NO_LIMITS,
        replay_seconds: np.ndarray | None = None,
    ) -> None:
        """``seconds``: (n,) float64, of passes with 1, 2, … n rows of this conversation, together with the
        rows of other conversations; so a row is charged what it adds to theirs. ``tree_sizes``: as for the
        Planner. ``rebuild_seconds``: added to a pass that drafts another number of tokens than
        ``last_drafted``. ``replay_seconds``: (n,) float64, of decoding 1, 2, … n accepted tokens again, where
        more drafts are rejected than ``limits`` let take back."""
        self.n_sharing, self.last_drafted, self.padding_spent = n_sharing, 0, 0.0
        # numpy's numbers would make all sums with them several times slower
        self.tokens_per_second = max(throughput.tokens_per_second, n_sharing / float(seconds[0]))
        self._rebuild_cost = self.tokens_per_second * rebuild_seconds
        self._costs: list[float] = (self.tokens_per_second * (seconds - seconds[0])).tolist()
        """In tokens, by how many are drafted."""
        self._chains_only, self._n_kept = limits.chains_only, limits.n_kept
        replays = seconds if replay_seconds is None else replay_seconds
        self._replay_costs: list[float] = (self.tokens_per_second * replays).tolist()
        """In tokens, by how many drafts are accepted before too many are rejected."""
        self.max_drafted = len(seconds) - 1
        self._counts: Collection[int] = (
            {*(size - 1 for size in tree_sizes), self.max_drafted} if tree_sizes else range(1, len(seconds))
        )
        """How many tokens may be drafted, besides none."""
        costs = np.array(self._costs)
        inverse = _inverse_differences(len(seconds), tuple(self._counts))
        self.min_probability: list[float] = (
            ((costs - costs[:, None]) * inverse).min(axis=1, initial=1.0, where=inverse > 0).tolist()
        )

    def value(self, draft: Draft) -> float:
        """Return how many tokens the best part of ``draft`` gains over drafting nothing."""
        return max(self._best_count(part)[0] for part in self._parts(draft))

    def select(self, draft: Draft, n_lookahead: int, root: int) -> Draft:
        """Return the part of ``draft`` that is worth most, with ``n_lookahead`` lookahead tokens at each node
        and at the root; padded where that saves rebuilding the graph."""
        if not draft.tokens and not self.last_drafted:
            return NO_DRAFT
        weighed = ((*self._best_count(part, n_lookahead), part) for part in self._parts(draft))
        _, count, part = max(weighed, key=operator.itemgetter(0))
        return part.most_likely(count).padded(root, count) if count else NO_DRAFT

    def count_padding(self, draft: Draft) -> None:
        """Count what padding costs in a pass over ``draft``. Once it has cost as much as rebuilding the graph
        would have, there is no more of it until a pass without: each padded pass by itself costs less, but
        together they can cost any amount."""
        n = len(draft.tokens)
        padding = self._costs[n] - self._costs[n - draft.n_padding]
        self.padding_spent = self.padding_spent + padding if draft.n_padding else 0.0

    def may_gain(self, builder: DraftBuilder, step_cost: float, depth: int) -> bool:
        """Return whether a chain of at most ``depth`` tokens, all of them right, can be worth more than the
        draft in ``builder``, if each takes the time of ``step_cost`` tokens to draft."""
        counts = (n for n in self._counts if n <= depth)
        if_right = max((n * (1 - step_cost) - self._costs[n] for n in counts), default=0.0)
        return if_right > (self.value(builder.build()) if builder else 0.0)

    def outcome(self, tree: DraftTree, n_accepted: int) -> float:
        """Return how many tokens a pass over ``tree`` has gained over a plain one, if so many of its drafts
        were accepted."""
        n = len(tree.tokens) - 1
        lost = self._costs[n] + self._rebuild_cost * (self.last_drafted != n)
        is_replayed = n - n_accepted > self._n_kept
        return n_accepted - lost - (self._replay_costs[n_accepted] if is_replayed else 0.0)

    def _parts(self, draft: Draft) -> list[Draft]:
        """Return the parts of ``draft`` that a pass may verify whole."""
        return draft.chains() if self._chains_only else [draft]

    def _best_count(self, draft: Draft, n_lookahead: int = 0) -> tuple[float, int]:
        """Return the value of the best part of ``draft``, in tokens, and how many nodes it has: more than
        ``draft`` has where padding it to the size of the last pass is best."""
        costs = self._costs[n_lookahead :: n_lookahead + 1]
        best_value, best_count = -costs[0] - self._rebuild_cost * (self.last_drafted != 0), 0
        expected, likely = 0.0, [1.0, *sorted(draft.probabilities, reverse=True)[: len(costs) - 1], 0.0]
        for n in range(1, len(likely) - 1):
            expected += likely[n] - self._replay_cost(likely, n - self._n_kept - 1)
            value = expected - costs[n] - self._rebuild_cost * (self.last_drafted != n)
            if value > best_value and n in self._counts:
                best_value, best_count = value, n
        may_pad = self.padding_spent < self._rebuild_cost
        if may_pad and len(draft.tokens) < self.last_drafted < len(costs):
            n = len(draft.tokens)
            accepted = range(n - self._n_kept, min(n, self.last_drafted - self._n_kept - 1) + 1)
            expected -= sum(self._replay_cost(likely, n_accepted) for n_accepted in accepted)
            value = expected - costs[self.last_drafted]
            if value > best_value:
                best_value, best_count = value, self.last_drafted
        return best_value, best_count

    def _replay_cost(self, likely: Sequence[float], n_accepted: int) -> float:
        """Return the expected cost of decoding ``n_accepted`` drafts again: the probability that it is just
        so many, by the path probabilities ``likely`` of 0, 1, 2, … drafts, times what it takes."""
        if n_accepted < 0:
            return 0.0
        return (likely[n_accepted] - likely[n_accepted + 1]) * self._replay_costs[n_accepted]


@lru_cache
def _inverse_differences(size: int, counts: tuple[int, ...]) -> np.ndarray:
    """Return (size, size) float64: 1 / (m - n) at [n, m] where m is in ``counts`` and above n, else 0."""
    n = np.arange(size)
    difference = n - n[:, None]
    return ((difference > 0) & np.isin(n, counts)) / np.maximum(difference, 1)


@dataclass
class Throughput:
    """Recent tokens per second of all conversations that share passes. Each of the others counts one token a
    pass, as if it drafted nothing."""

    tokens: float = 0.0
    seconds: float = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """Record one pass."""
        self.tokens = self.tokens * _DECAY + tokens
        self.seconds = self.seconds * _DECAY + seconds

    @property
    def tokens_per_second(self) -> float:
        """0 before the first pass."""
        return self.tokens / self.seconds if self.seconds else 0.0
