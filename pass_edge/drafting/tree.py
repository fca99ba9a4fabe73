"""The draft tree of one step, and its layout as one llama.cpp batch.

Words: the *root* is the last token, which is chosen but not decoded yet; a *node* is the root or a drafted
token; a *lookahead group* is the run of lookahead tokens that follows a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from pass_edge.native.batch import Int32s, Rows
from pass_edge.native.context import Context
from pass_edge.sampling.sampler import Distribution
from pass_edge.settings import MAX_ROWS


@dataclass(frozen=True)
class DraftTree:
    """The tree that one step decodes. Node 0 is the root; ``parents[i] < i``, and ``parents[0]`` is -1.

    ``lookahead[i]``: how many lookahead tokens follow node i. ``proposals[i]``: the distribution that the
    children of node i were drawn from, the first drawn first; only the rejection rule reads it.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    lookahead: tuple[int, ...]
    proposals: Mapping[int, Distribution] = field(default_factory=dict)

    def children(self, node: int) -> list[int]:
        """Return the children of ``node``, in the order in which they were drafted."""
        return [child for child in range(node + 1, len(self.parents)) if self.parents[child] == node]

    def child_with(self, node: int, token: int) -> int | None:
        """Return the child of ``node`` that drafts ``token``; None without one."""
        return next((child for child in self.children(node) if self.tokens[child] == token), None)

    def n_accepted(self, tokens: Iterable[int]) -> int:
        """Return how many drafts on the path of ``tokens``, which follow the root, are in the tree."""
        node, count = 0, 0
        for token in tokens:
            child = self.child_with(node, token)
            if child is None:
                break
            node, count = child, count + 1
        return count

    def without_lookahead(self) -> DraftTree:
        """Return the tree with the same nodes and no lookahead tokens."""
        return replace(self, lookahead=(0,) * len(self.tokens))

    def layout(
        self, start: int, base: int = 0, first_group: int | None = None, *, min_paths: int = 0
    ) -> Layout:
        """Return the batch for this tree, with its root at position ``start``, in sequences from ``base`` on.

        ``first_group``: the number, counted from ``base``, of the first sequence for lookahead groups. They
        have sequences of their own where they see more than the path to their node (a prefix); None lets them
        share the sequence of the path. ``min_paths``: a tree without lookahead tokens names at least so many
        sequences, but no more than it has drafted nodes. llama.cpp keeps its graph only where passes of as
        many rows name as many sequences.
        """
        n_paths = 0 if any(self.lookahead) else min_paths
        shape = _shape(self.parents, self.lookahead, base, first_group, n_paths)
        return Layout(
            tree=self,
            rows=Rows(shape.depths + start, shape.sequence_offsets, shape.sequence_ids, shape.outputs),
            inputs=np.array((*self.tokens, *shape.lookahead_inputs), np.int32),
            shape=shape,
        )


@dataclass(frozen=True)
class Draft:
    """Tokens that may follow the root, as a tree: token i is node i + 1, below node ``parents[i] <= i``,
    where 0 is the root.

    ``probabilities``: the path probability of each node, in (0, 1]: that it and all nodes above it are right.
    ``proposals``: as in DraftTree. ``n_padding``: tokens at the end that only make up the number.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    proposals: Mapping[int, Distribution] = field(default_factory=dict)
    n_padding: int = 0

    @classmethod
    def chain(
        cls,
        tokens: Sequence[int],
        probabilities: Sequence[float] = (),
        proposals: Sequence[Distribution] = (),
    ) -> Draft:
        """Return a draft in which each token follows the one before."""
        return cls(tuple(tokens), tuple(range(len(tokens))), tuple(probabilities), dict(enumerate(proposals)))

    def below(self, root: int, lookahead: int = 0) -> DraftTree:
        """Return the tree of ``root`` and this draft, with ``lookahead`` lookahead tokens at every node."""
        n = 1 + len(self.tokens)
        return DraftTree((root, *self.tokens), (-1, *self.parents), (lookahead,) * n, self.proposals)

    def most_likely(self, count: int) -> Draft:
        """Return the ``count`` nodes of highest path probability. They form a tree, because no node is more
        likely than its parent."""
        if count >= len(self.tokens):
            return self
        kept = sorted(sorted(range(len(self.tokens)), key=lambda i: -self.probabilities[i])[:count])
        renumbered = {0: 0} | {old + 1: new + 1 for new, old in enumerate(kept)}
        return Draft(
            tuple(self.tokens[i] for i in kept),
            tuple(renumbered[self.parents[i]] for i in kept),
            tuple(self.probabilities[i] for i in kept),
            {renumbered[node]: q for node, q in self.proposals.items() if node in renumbered},
        )

    def chains(self) -> list[Draft]:
        """Return the path to each leaf; an empty draft without nodes."""
        is_parent = set(self.parents)
        leaves = [node for node in range(1, len(self.tokens) + 1) if node not in is_parent]
        return [self._path_to(leaf) for leaf in leaves] or [self]

    def _path_to(self, node: int) -> Draft:
        path: list[int] = []
        while node:
            path.append(node - 1)
            node = self.parents[node - 1]
        path.reverse()
        return Draft(
            tuple(self.tokens[i] for i in path),
            tuple(range(len(path))),
            tuple(self.probabilities[i] for i in path),
            {
                depth: self.proposals[self.parents[i]]
                for depth, i in enumerate(path)
                if self.parents[i] in self.proposals
            },
        )

    def padded(self, root: int, count: int) -> Draft:
        """Return the draft with at least ``count`` nodes: where there are fewer, the last token (``root``
        without one) is repeated in a chain."""
        n = len(self.tokens)
        missing = max(0, count - n)
        if not missing:
            return self
        last = self.tokens[-1] if self.tokens else root
        return Draft(
            self.tokens + (last,) * missing,
            (*self.parents, *range(n, count)),
            self.probabilities + (_PADDING_PROBABILITY,) * missing,
            self.proposals,
            missing,
        )


_PADDING_PROBABILITY = 1e-3
NO_DRAFT = Draft()


@dataclass(frozen=True)
class Shape:
    """The part of a layout that depends only on the form of the tree, for n nodes and m rows.

    ``depths``: (m,) int32, of each row; 0 at the root. ``sequence_offsets``, ``sequence_ids``, ``outputs``:
    as in Rows. ``lookahead_inputs``: of m - n rows, -1 - k for lookahead token k. ``group_starts``: the
    first row of each node's lookahead group. ``path_sequence``: for each node, a sequence, counted from the
    first one, whose rows, up to the node's, are the path to it. ``height``: the depth of the deepest node.
    ``n_paths``: the number of sequences of paths. ``n_groups``: the number of sequences of lookahead groups
    alone.
    """

    depths: Int32s
    sequence_offsets: Int32s
    sequence_ids: Int32s
    outputs: np.ndarray
    lookahead_inputs: tuple[int, ...]
    group_starts: tuple[int, ...]
    path_sequence: tuple[int, ...]
    height: int
    n_paths: int
    n_groups: int


@dataclass(frozen=True)
class Layout:
    """``tree`` as the m rows of one batch: first its nodes in order, then its lookahead groups.

    ``inputs``: (m,) int32, token ids, or -1 - k for lookahead token k.
    """

    tree: DraftTree
    rows: Rows
    inputs: Int32s
    shape: Shape


@dataclass(frozen=True)
class TreeLimits:
    """Which trees the memory of a model can verify, and how many drafts it takes back.

    ``chains_only``: no node has two children, and there are no lookahead tokens. A recurrent state belongs to
    one text, so sequences cannot share the rows of a pass. ``n_kept``: so many rejected drafts can be taken
    back. If there are more, the accepted tokens are decoded again, from a copy of the state.
    """

    chains_only: bool = False
    n_kept: int = MAX_ROWS

    @classmethod
    def of(cls, context: Context) -> TreeLimits:
        """Return the limits of the memory of ``context``."""
        if not context.model.is_recurrent:
            return cls()
        return cls(True, context.n_rollback)

    def allow(self, shape: Shape) -> bool:
        """Return whether a tree of this shape can be verified."""
        is_chain = shape.n_paths == 1 and not shape.lookahead_inputs
        return is_chain or not self.chains_only


@lru_cache(maxsize=1024)
def _shape(
    parents: tuple[int, ...], lookahead: tuple[int, ...], base: int, first_group: int | None, min_paths: int
) -> Shape:
    # An example: a root R with drafts a and c below it and b below a, and one lookahead token (*) at every
    # node. Rows of a sequence see the earlier rows of that sequence.
    #
    #   row        R      a      b    c      R*   a*   b*   c*
    #   position   n      n+1    n+2  n+1    n+1  n+2  n+3  n+2
    #   sequences  0123   12     2    3      0    1    2    3
    #   logits     of every row: nodes are verified, lookahead tokens draft
    #
    # A sequence ends at each leaf and at each node with a group; all nodes on the path to that node belong
    # to it. In llama.cpp a row sees what the last of its sequences holds. So groups that see more than their
    # path (``separate``) have sequences of their own, which also hold the path, and a node names these before
    # the sequences of paths.
    n = len(parents)
    is_parent = set(parents)
    separate = first_group is not None
    path_ends = [node for node in range(n) if node not in is_parent or (lookahead[node] and not separate)]
    paths = {node: sequence for sequence, node in enumerate(path_ends)}
    group_nodes = [node for node in range(n) if lookahead[node]] if separate else []
    groups = {node: sequence for sequence, node in enumerate(group_nodes, first_group or 0)}
    sequences: list[list[int]] = [[] for _ in parents]
    for node, sequence in (*groups.items(), *paths.items()):
        ancestor = node
        while ancestor >= 0:
            sequences[ancestor].append(sequence)
            ancestor = parents[ancestor]
    n_paths = max(len(paths), min(n - 1, min_paths))
    sequences[0] += range(len(paths), n_paths)
    depths = [0] * n
    for node in range(1, n):
        depths[node] = depths[parents[node]] + 1
    group_starts: list[int] = []
    inputs: list[int] = []
    group_sequences = groups if separate else paths
    for node in range(n):
        group_starts.append(n + len(inputs))
        inputs += [-1 - k for k in range(lookahead[node])]
        depths += [depths[node] + 1 + k for k in range(lookahead[node])]
        sequences += [[group_sequences[node]] for _ in range(lookahead[node])]
    return Shape(
        depths=np.array(depths, np.int32),
        sequence_offsets=np.cumsum([0] + [len(ids) for ids in sequences], dtype=np.int32),
        sequence_ids=np.array([base + sequence for ids in sequences for sequence in ids], np.int32),
        outputs=np.ones(len(depths), np.bool_),
        lookahead_inputs=tuple(inputs),
        group_starts=tuple(group_starts),
        path_sequence=tuple(sequences[node][-1] for node in range(n)),
        height=max(depths[:n]),
        n_paths=n_paths,
        n_groups=len(groups),
    )
