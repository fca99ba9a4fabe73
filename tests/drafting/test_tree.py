"""The layout of a tree: which position a row has, and which rows it sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pass_edge.drafting.schedules import FORMS, rows_needed
from pass_edge.drafting.tree import Draft, DraftTree


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    n = draw(st.integers(1, 12))
    parents = (-1, *(draw(st.integers(0, i - 1)) for i in range(1, n)))
    groups = tuple(draw(st.integers(0, 3)) for _ in range(n))
    return DraftTree(tuple(range(100, 100 + n)), parents, groups)


def path_to(tree: DraftTree, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]


@given(
    tree=trees(),
    start=st.integers(0, 1000),
    first_group=st.sampled_from([None, 20]),
    min_paths=st.sampled_from([0, 4]),
)
def test_every_row_sees_its_own_path_and_nothing_else(
    tree: DraftTree, start: int, first_group: int | None, min_paths: int
) -> None:
    layout = tree.layout(start, first_group=first_group, min_paths=min_paths)
    rows, n = layout.rows, len(tree.tokens)
    sequences = [
        set(rows.sequence_ids[rows.sequence_offsets[i] : rows.sequence_offsets[i + 1]].tolist())
        for i in range(len(rows))
    ]
    owner = [None] * n + [node for node in range(n) for _ in range(tree.lookahead[node])]
    for row in range(len(rows)):
        # llama.cpp's mask: a row sees the rows of earlier or equal position in the last of its sequences.
        # Here each of its sequences must hold, up to the row's position, the row's path only
        node = row if row < n else owner[row]
        first = layout.shape.group_starts[node] if row >= n else row
        expected = {*path_to(tree, node), *range(first, row + 1)}
        for sequence in sequences[row]:
            seen = {
                other
                for other in range(len(rows))
                if sequence in sequences[other] and rows.positions[other] <= rows.positions[row]
            }
            assert seen == expected


@given(tree=trees())
def test_trees_of_as_many_nodes_name_as_many_sequences(tree: DraftTree) -> None:
    """Where they have no more than ``min_paths`` paths; llama.cpp then keeps its graph."""
    tree = tree.without_lookahead()
    layout, n = tree.layout(3, min_paths=4), len(tree.tokens)
    n_paths = tree.layout(3).shape.n_paths
    assert layout.shape.n_paths == max(n_paths, min(4, n - 1))
    assert set(layout.rows.sequence_ids.tolist()) == set(range(layout.shape.n_paths))


@given(tree=trees())
def test_only_lookahead_tokens_see_sequences_of_lookahead_groups(tree: DraftTree) -> None:
    layout = tree.layout(0, first_group=20)
    offsets, ids = layout.rows.sequence_offsets, layout.rows.sequence_ids
    n = len(tree.tokens)
    last = ids[offsets[1:] - 1]  # the sequence that a row sees
    assert (last[:n] < 20).all(), "a node would see the prefix"
    assert (last[n:] >= 20).all(), "a lookahead token would not see the prefix"
    assert all(sequence < 20 for sequence in layout.shape.path_sequence)


@pytest.mark.parametrize("first_group", [None, 20])
@given(tree=trees())
def test_inputs_positions_and_sequences_are_as_llama_cpp_requires(
    first_group: int | None, tree: DraftTree
) -> None:
    layout = tree.layout(7, first_group=first_group)
    n = len(tree.tokens)
    assert layout.inputs[:n].tolist() == list(tree.tokens)
    for node in range(n):
        first, count = layout.shape.group_starts[node], tree.lookahead[node]
        assert layout.inputs[first : first + count].tolist() == [-1 - k for k in range(count)]
        assert layout.rows.positions[node] == 7 + len(path_to(tree, node)) - 1
    groups = range(first_group or 0, (first_group or 0) + layout.shape.n_groups)
    for sequence in (*range(layout.shape.n_paths), *groups):
        offsets, ids = layout.rows.sequence_offsets, layout.rows.sequence_ids
        positions = [
            layout.rows.positions[i]
            for i in range(len(layout.rows))
            if sequence in ids[offsets[i] : offsets[i + 1]]
        ]
        assert sorted(positions) == list(range(7, 7 + len(positions))), "positions must be consecutive"


def test_the_trees_of_fixed_schedules() -> None:
    draft = Draft.chain((5, 6))
    assert FORMS["plain"](1, draft, 2) == DraftTree((1,), (-1,), (0,))
    assert FORMS["two-pass"](1, Draft(), 2) == DraftTree((1,), (-1,), (2,))
    assert FORMS["two-pass"](1, draft, 2) == DraftTree((1, 5, 6), (-1, 0, 1), (0, 0, 0))
    assert FORMS["fused"](1, draft, 2) == DraftTree((1, 5, 6), (-1, 0, 1), (2, 2, 2))
    assert [rows_needed(FORMS[name], 2) for name in ("plain", "two-pass", "fused")] == [1, 3, 9]
