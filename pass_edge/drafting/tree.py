"""The draft tree of one step and how it is laid out as one llama.cpp batch.

Words: the *root* is the last token already chosen but not yet decoded; a *node* is the root or a
drafted token; a *lookahead group* is a run of lookahead tokens hung on a node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from pass_edge.native.batch import Int32s, Rows
from pass_edge.sampling.sampler import Distribution


@dataclass(frozen=True)
class DraftTree:
    """What one step decodes. Node 0 is the root; ``parents[i] < i``, and ``parents[0]`` is -1.

    ``lookahead[i]``: how many lookahead tokens follow node i. ``proposals[i]``: the distribution that
    the children of node i were drawn from, best child first (only the rejection rule reads it).
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    lookahead: tuple[int, ...]
    proposals: Mapping[int, Distribution] = field(default_factory=dict)

    def children(self, node: int) -> list[int]:
        """The nodes right below ``node``, in the order they were drafted."""
        return [child for child in range(node + 1, len(self.parents)) if self.parents[child] == node]

    def child_with(self, node: int, token: int) -> int | None:
        """The child of ``node`` that drafts ``token``."""
        return next((child for child in self.children(node) if self.tokens[child] == token), None)

    def without_lookahead(self) -> DraftTree:
        """The same nodes."""
        return replace(self, lookahead=(0,) * len(self.tokens))

    def layout(self, start: int, base: int = 0, first_group: int | None = None, *, alike: int = 0) -> Layout:
        """The batch for this tree with its root at position ``start``, in sequences from ``base`` on.
        ``first_group``: the first, counted from there, of the sequences that lookahead groups get for
        themselves, because they see more than the path to their node; else they share its sequence.
        ``alike``: paths that trees have, or are given, whatever their form, if they are wide enough."""
        shape = _shape(self.parents, self.lookahead, first_group, 0 if any(self.lookahead) else alike)
        return Layout(
            tree=self,
            rows=Rows(
                shape.depths + np.int32(start),
                shape.sequence_offsets,
                shape.sequence_ids + np.int32(base),
                shape.outputs,
            ),
            inputs=np.concatenate([np.array(self.tokens, np.int32), shape.lookahead_inputs]),
            shape=shape,
        )


@dataclass(frozen=True)
class Draft:
    """What may follow the root, as a tree: token i is node i + 1, below node ``parents[i] <= i`` (0: the
    root).

    ``chances``: that it and all above it are right, in (0, 1]. ``proposals``: as in DraftTree.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()
    proposals: Mapping[int, Distribution] = field(default_factory=dict)

    @classmethod
    def chain(
        cls, tokens: Sequence[int], chances: Sequence[float] = (), proposals: Sequence[Distribution] = ()
    ) -> Draft:
        """One token after the other."""
        return cls(tuple(tokens), tuple(range(len(tokens))), tuple(chances), dict(enumerate(proposals)))

    def below(self, root: int, lookahead: int = 0) -> DraftTree:
        """The tree of ``root`` and this draft, with ``lookahead`` lookahead tokens at every node."""
        n = 1 + len(self.tokens)
        return DraftTree((root, *self.tokens), (-1, *self.parents), (lookahead,) * n, self.proposals)

    def best(self, count: int) -> Draft:
        """The ``count`` nodes of highest chance: a tree as well, because nothing is likelier than what
        it hangs on."""
        if count >= len(self.tokens):
            return self
        kept = sorted(sorted(range(len(self.tokens)), key=lambda i: -self.chances[i])[:count])
        renumbered = {0: 0} | {old + 1: new + 1 for new, old in enumerate(kept)}
        return Draft(
            tuple(self.tokens[i] for i in kept),
            tuple(renumbered[self.parents[i]] for i in kept),
            tuple(self.chances[i] for i in kept),
            {renumbered[node]: q for node, q in self.proposals.items() if node in renumbered},
        )

    def filled(self, root: int, count: int) -> Draft:
        """``count`` nodes: where there are fewer, the last token is said again and again."""
        missing, n = max(0, count - len(self.tokens)), len(self.tokens)
        if not missing:
            return self
        again = self.tokens[-1] if self.tokens else root
        return Draft(
            self.tokens + (again,) * missing,
            (*self.parents, *range(n, count)),
            self.chances + (_HARDLY,) * missing,
            self.proposals,
        )


_HARDLY = 1e-3  # the chance of what is drafted for want of anything better
NO_DRAFT = Draft()


@dataclass(frozen=True)
class Shape:
    """The part of a layout that depends only on the form of the tree, for n nodes and m rows, with sequences
    numbered from 0.

    ``depths``: (m,) int32, 0 at the root. ``sequence_offsets``, ``sequence_ids``: as in Rows.
    ``lookahead_inputs``: (m - n,) int32, -1 - k for lookahead token k. ``group_starts``: first row
    of each node's lookahead group. ``a_sequence``: for each node, one sequence that holds the path to
    it and nothing else. ``height``: depth of the deepest node. ``n_paths``: how many sequences the layout
    uses; ``n_groups``: how many more for lookahead groups alone, numbered from ``first_group``.
    """

    depths: Int32s
    sequence_offsets: Int32s
    sequence_ids: Int32s
    outputs: np.ndarray
    lookahead_inputs: Int32s
    group_starts: tuple[int, ...]
    a_sequence: tuple[int, ...]
    height: int
    n_paths: int
    n_groups: int


@dataclass(frozen=True)
class Layout:
    """``tree`` as rows of one batch: first its nodes in order, then its lookahead groups.

    ``inputs``: (m,) int32, token ids, or -1 - k for lookahead token k.
    """

    tree: DraftTree
    rows: Rows
    inputs: Int32s
    shape: Shape


@lru_cache(maxsize=1024)
def _shape(
    parents: tuple[int, ...], lookahead: tuple[int, ...], first_group: int | None, alike: int
) -> Shape:
    # Drawn once, for a root R with drafts a and c below it and b below a, one lookahead token (*) at
    # every node. A row's sequences decide who sees it; a group's own sequence holds its path too.
    #
    #   row        R      a      b    c      R*   a*   b*   c*
    #   position   n      n+1    n+2  n+1    n+1  n+2  n+3  n+2
    #   sequences  0123   12     2    3      0    1    2    3
    #   logits     yes, on every row: nodes are verified, lookahead tokens draft
    #
    # A node gets a sequence of its own if a group hangs on it or nothing does (a leaf); all nodes
    # above it are members. In llama.cpp a row sees what the last of its sequences holds: so groups that
    # see more than their path have sequences of their own, and nodes name those before the paths.
    n = len(parents)
    is_parent = set(parents)
    apart = first_group is not None
    ends = [node for node in range(n) if node not in is_parent or (lookahead[node] and not apart)]
    own = {node: number for number, node in enumerate(ends)}
    hung = [node for node in range(n) if lookahead[node]] if apart else []
    groups = {node: number for number, node in enumerate(hung, first_group or 0)} if apart else own
    members: list[list[int]] = [[] for _ in parents]
    for node, number in (*(groups.items() if apart else ()), *own.items()):
        ancestor = node
        while ancestor >= 0:
            members[ancestor].append(number)
            ancestor = parents[ancestor]
    # llama.cpp goes on with the last pass's graph where rows and sequences are as many
    n_paths = max(len(own), min(n - 1, alike))
    members[0] += range(len(own), n_paths)
    depths = [0] * n
    for node in range(1, n):
        depths[node] = depths[parents[node]] + 1
    group_starts: list[int] = []
    inputs: list[int] = []
    for node in range(n):
        group_starts.append(n + len(inputs))
        inputs += [-1 - k for k in range(lookahead[node])]
        depths += [depths[node] + 1 + k for k in range(lookahead[node])]
        members += [[groups[node]] for _ in range(lookahead[node])]
    return Shape(
        depths=np.array(depths, np.int32),
        sequence_offsets=np.cumsum([0] + [len(m) for m in members], dtype=np.int32),
        sequence_ids=np.array([s for m in members for s in m], np.int32),
        outputs=np.ones(len(depths), np.bool_),
        lookahead_inputs=np.array(inputs, np.int32),
        group_starts=tuple(group_starts),
        a_sequence=tuple(members[node][-1] for node in range(n)),
        height=max(depths[:n]),
        n_paths=n_paths,
        n_groups=len(hung),
    )
