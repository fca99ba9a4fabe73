"""Draft trees of any form, in which some nodes draft the tokens that really follow."""

from __future__ import annotations

from hypothesis import strategies as st

from pass_edge.drafting.tree import DraftTree

N_LOOKAHEAD = 3


@st.composite
def tree_forms(draw: st.DrawFn) -> tuple[list[int], list[bool], list[int]]:
    """Parents, whether each node drafts the truth, and lookahead tokens at each node."""
    n = draw(st.integers(1, 8))
    parents = [-1] + [draw(st.integers(0, i - 1)) for i in range(1, n)]
    right = [True] + [draw(st.booleans()) for _ in range(1, n)]
    groups = [draw(st.integers(0, N_LOOKAHEAD)) for _ in range(n)]
    return parents, right, groups


def build(
    form: tuple[list[int], list[bool], list[int]], root: int, future: list[int], n_vocab: int
) -> DraftTree:
    parents, right, groups = form
    depths, tokens = [0], [root]
    for node in range(1, len(parents)):
        depths.append(depths[parents[node]] + 1)
        true_token = future[depths[node] - 1]
        siblings = {tokens[i] for i in range(1, node) if parents[i] == parents[node]}
        token = true_token if right[node] else (true_token + 1 + node) % n_vocab
        while token in siblings:
            token = (token + 1) % n_vocab
        tokens.append(token)
    return DraftTree(tuple(tokens), tuple(parents), tuple(groups))
