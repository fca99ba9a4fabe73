"""The KV cache that conversations share: the one place that shares, keeps and removes its cells.

Every conversation has a range of sequences of its own. The first of them, its *base*, holds the conversation.
Every *live* sequence mirrors it, because llama.cpp lets sequences share a batch row only while they have not
diverged: one for each path of a tree, and, where lookahead tokens see a prefix, one for each lookahead group,
which holds the prefix besides.

Attention adds up cells in the order they lie in memory, and llama.cpp fills the first free ones. So no cell
may become free before any conversation's last one: a later token would land there, out of order, and change
the last bits of what follows. Such cells stay taken by the *spacer*, a sequence that nobody reads, until the
next compaction. Which cell lies before which is told by *stamps*: rows are numbered as they are decoded.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from pass_edge.drafting.tree import NO_DRAFT, DraftTree, Layout
from pass_edge.native.batch import Rows, rows_of_sequence
from pass_edge.native.context import Context, Floats
from pass_edge.settings import MAX_ROWS, SPARE_CELLS

_PATHS = 31
"""Most paths of a tree, each with a sequence of its own."""
_ALIKE = 4
"""Paths that trees have, or are given: each costs a little when it is committed."""
_FEW_GAPS = 512
"""Gaps that are never worth a compaction while there is room: attention skips them, one by one."""


def _paths_and_groups(n_prefix: int, parallel: int) -> tuple[int, int]:
    """Sequences of each conversation: for paths, and for lookahead groups that see a prefix."""
    if n_prefix and parallel == 1:
        return _PATHS, MAX_ROWS // 2
    # llama.cpp wants room for as many outputs as there are sequences; and in passes that several share,
    # groups with a prefix were measured to change the bits of others, so there they are left out
    return min(_PATHS, (MAX_ROWS - 1) // parallel), 0


def sequences_needed(n_prefix: int, parallel: int = 1) -> int:
    """How many sequences the context must have for ``parallel`` conversations: the paths, as many lookahead
    groups as a step has room for if they see a prefix of ``n_prefix`` rows, and the spacer."""
    return parallel * sum(_paths_and_groups(n_prefix, parallel)) + 1


class KVCache:
    """All of it. Not thread-safe.

    Attributes: ``conversations``, a view for each; ``context``; ``prefix``, (P, n_embd) float32.
    """

    def __init__(self, context: Context, prefix: Floats, parallel: int = 1) -> None:
        """``context`` must have ``sequences_needed``; ``prefix``: what only lookahead rows see."""
        self.context, self.prefix = context, prefix
        self._spacer = context.settings.sequences - 1
        self.paths, self.groups = _paths_and_groups(len(prefix), parallel)
        self.clock, self._gaps = 0, 0
        self.conversations = [ConversationCache(self, number) for number in range(parallel)]
        self.clear()

    @property
    def room(self) -> int:
        """Tokens that each conversation may hold."""
        return self.context.settings.cells // len(self.conversations) - SPARE_CELLS

    @property
    def is_settled(self) -> bool:
        """Whether all that was decoded is committed."""
        return not any(cells.pending for cells in self.conversations)

    def clear(self) -> None:
        """Empty it."""
        self.context.clear()
        self.clock = self._gaps = 0
        for cells in self.conversations:
            cells.reset()

    def is_short_of(self, rows: int) -> bool:
        """Whether ``rows`` more need a compaction first, or there are so many gaps that it pays."""
        held = sum(cells.length + cells.pending for cells in self.conversations)
        reserved = len(self.prefix) * len(self.conversations)
        full = held + self._gaps + reserved + rows > self.context.settings.cells
        return (full and self._gaps > 0) or self._gaps > max(_FEW_GAPS, held)

    def compact(self) -> None:
        """Close the gaps: cells keep their bits and their order. All must be settled. Raises ContextError,
        and is empty then."""
        states = [cells.save() if cells.length else b"" for cells in self.conversations]
        self.clear()
        try:
            for cells, state in zip(self.conversations, states, strict=True):
                if state:
                    cells.hold(state)
        except BaseException:
            self.clear()
            raise

    def stamp(self, count: int) -> int:
        """The first of ``count`` new stamps."""
        self.clock += count
        return self.clock - count

    def last_of_others(self, one: ConversationCache) -> int:
        """The stamp of the last cell of any conversation but ``one``; -1 if they are empty."""
        return max((cells.last for cells in self.conversations if cells is not one), default=-1)

    def space(self, sequence: int, start: int, end: int, more: int = 0) -> None:
        """What ``sequence`` holds at positions [start, end), a cell at each and ``more``, stays taken,
        whoever removes it."""
        self.context.copy(sequence, self._spacer, start, end)
        self._gaps += end - start + more


class ConversationCache:
    """One conversation's part of the cache: positions 0 … ``length`` - 1."""

    def __init__(self, cache: KVCache, number: int) -> None:
        self._cache, self._context, self._prefix = cache, cache.context, cache.prefix
        self._base = number * (cache.paths + cache.groups)
        self._first_group = self._base + cache.paths
        self.reset()

    def reset(self, stamps: Sequence[int] = ()) -> None:
        """The cache was emptied, but for cells with ``stamps`` in the base."""
        self._stamps = list(stamps)
        self._live, self._live_groups = 1, 0
        self._placed: tuple[Rows, int] | None = None

    @property
    def length(self) -> int:
        """Tokens of the conversation."""
        return len(self._stamps)

    @property
    def pending(self) -> int:
        """Rows that were placed and not yet committed."""
        return len(self._placed[0]) if self._placed else 0

    @property
    def last(self) -> int:
        """The stamp of its last cell, -1 if it has none."""
        if self._placed:
            return self._placed[1] + len(self._placed[0]) - 1
        return self._stamps[-1] if self._stamps else -1

    def clear(self) -> None:
        """Empty it."""
        others = self._cache.last_of_others(self)
        if others < 0:
            self._cache.clear()
            return
        self._keep_pending([])
        if self._live_groups:  # they hold the prefix at the same positions, too
            self._cache.space(self._first_group, 0, self.length, len(self._prefix))
        elif self.length:
            self._cache.space(self._base, 0, self.length)
        for sequence in self._sequences():
            self._context.remove(sequence, 0)
        self.reset()

    def cut(self, length: int) -> None:
        """Keep the first ``length`` tokens. A memory that cannot be cut there is emptied instead."""
        if length >= self.length:
            return
        cuts_prefix = self._live_groups and length < len(self._prefix)
        if not length or cuts_prefix or not self._context.model.can_roll_back:
            self.clear()
            return
        end = bisect_right(self._stamps, self._cache.last_of_others(self))
        if end > length:
            self._cache.space(self._base, length, end)
        for sequence in self._sequences():
            self._context.remove(sequence, length)
        del self._stamps[length:]

    # -- text that is read ------------------------------------------------------------------------

    def next_rows(self, count: int) -> Rows:
        """Where the next ``count`` tokens stand; they are pending then."""
        return self._place(rows_of_sequence(self.length, count, sequence=self._base))

    def extended(self) -> None:
        """The ``next_rows`` were decoded."""
        assert self._placed
        (rows, first), start, self._placed = self._placed, self.length, None
        self._stamps += range(first, first + len(rows))
        self._mirror(self._base, start)

    # -- one step ---------------------------------------------------------------------------------

    def layout(self, tree: DraftTree) -> Layout:
        """``tree`` behind the conversation, pending, and as many sequences live as it uses. What of it has no
        sequences is left out."""
        if self.length < len(self._prefix):  # sequences that share a row must end at the same position
            tree = tree.without_lookahead()
        layout = self._laid_out(tree)
        if not self._has_sequences(layout):
            layout = self._laid_out(tree.without_lookahead())
        if not self._has_sequences(layout):
            layout = self._laid_out(NO_DRAFT.below(tree.tokens[0]))
        self._activate_sequences(layout)
        self._place(layout.rows)
        return layout

    def commit(self, layout: Layout, path: Sequence[int]) -> None:
        """``layout`` was decoded: keep the nodes of ``path``, from the root on, and nothing else."""
        assert self._placed
        start, end = self.length, self.length + len(path)
        keeper = self._base + layout.shape.path_sequence[path[-1]]
        first = self._placed[1]
        self._keep_pending(path)
        if len(layout.rows) > 1:
            for sequence in self._sequences():
                self._context.remove(sequence, end if sequence == keeper else start)
        self._mirror(keeper, start)
        self._stamps += [first + node for node in path]

    def _place(self, rows: Rows) -> Rows:
        self._placed = rows, self._cache.stamp(len(rows))
        return rows

    def _keep_pending(self, path: Sequence[int]) -> None:
        """Space those of the pending rows, but for ``path``, whose cells lie before any that is kept."""
        if not self._placed:
            return
        (rows, first), self._placed = self._placed, None
        last = max(self._cache.last_of_others(self), first + path[-1] if path else -1)
        for row in set(range(min(len(rows), last - first))) - set(path):
            sequence = int(rows.sequence_ids[rows.sequence_offsets[row + 1] - 1])
            position = int(rows.positions[row])
            self._cache.space(sequence, position, position + 1)

    def _laid_out(self, tree: DraftTree) -> Layout:
        cache = self._cache
        # shared passes are of ever other widths anyway
        alike = _ALIKE if len(cache.conversations) == 1 else 0
        first_group = cache.paths if len(self._prefix) else None
        return tree.layout(self.length, self._base, first_group, min_paths=alike)

    def _has_sequences(self, layout: Layout) -> bool:
        shape, cache = layout.shape, self._cache
        return shape.n_paths <= cache.paths and shape.n_groups <= cache.groups

    def _sequences(self) -> Iterator[int]:
        """The base and all that mirror it."""
        return itertools.chain(
            range(self._base, self._base + self._live),
            range(self._first_group, self._first_group + self._live_groups),
        )

    def _mirror(self, source: int, start: int) -> None:
        for sequence in self._sequences():
            if sequence != source:
                self._context.copy(source, sequence, start)

    def _activate_sequences(self, layout: Layout) -> None:
        for number in range(self._live, layout.shape.n_paths):
            self._context.copy(self._base, self._base + number, 0)
        self._live = max(self._live, layout.shape.n_paths)
        if layout.shape.n_groups <= self._live_groups:
            return
        first = self._first_group
        if not self._live_groups:
            self._decode_prefix()
            self._context.copy(self._base, first, 0)
        for number in range(max(1, self._live_groups), layout.shape.n_groups):
            self._context.copy(first, first + number, 0)
        self._live_groups = layout.shape.n_groups

    def _decode_prefix(self) -> None:
        self._context.keep_hidden(False)
        rows = rows_of_sequence(0, len(self._prefix), sequence=self._first_group)
        self._cache.stamp(len(rows))
        self._context.decode_embeddings(rows, self._prefix)

    # -- saved and restored: cells keep their bits and their order, and lose the gaps between them -------

    def save(self) -> bytes:
        """The conversation's cells, as llama.cpp writes them."""
        return self._context.save_sequence(self._base)

    def restore(self, state: bytes) -> None:
        """Hold what was saved, and nothing else; all must be settled. Raises ContextError, and is empty
        then."""
        self.clear()
        self._cache.compact()  # what is put back lies in one piece, and must leave no free cell before it
        try:
            self.hold(state)
        except BaseException:
            self.clear()
            raise

    def hold(self, state: bytes) -> None:
        """Put what was saved behind all other cells; the conversation must be empty. Raises ContextError."""
        self._context.restore_sequence(self._base, state)
        length = self._context.last_position(self._base) + 1
        first = self._cache.stamp(length)
        self.reset(range(first, first + length))
