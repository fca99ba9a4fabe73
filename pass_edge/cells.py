"""The KV cache of one conversation: the one place that shares, keeps and removes its cells.

Sequence 0 holds the conversation. Every *live* sequence mirrors it, because llama.cpp lets sequences share a
batch row only while they have not diverged: one for each path of a tree, and, where lookahead tokens see a
prefix, one for each lookahead group, which holds the prefix besides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, Floats

from .tree import DraftTree, Layout

MAX_ROWS = 64
"""Most rows one step may decode."""
SPARE_CELLS = 256
"""KV cells beyond the context size: for a step's drafts, and for the gaps that rejected ones leave."""
_PATHS = 31
"""Most paths of a tree, each with a sequence of its own."""


def sequences_needed(n_prefix: int) -> int:
    """How many sequences the context must have: the paths, as many lookahead groups as a step has room for
    if they see a prefix of ``n_prefix`` rows, and the spacer."""
    return _PATHS + (MAX_ROWS // 2 if n_prefix else 0) + 1


class Cells:
    """What is in the cache. ``length``: tokens of the conversation, positions 0 … length - 1."""

    def __init__(self, context: Context, prefix: Floats) -> None:
        """``prefix``: (P, n_embd) float32, what only lookahead rows see."""
        self._context, self._prefix = context, prefix
        self._first_group = _PATHS if len(prefix) else None
        self._spacer = context.settings.sequences - 1
        self.clear()

    def clear(self) -> None:
        """Empty it."""
        self._context.clear()
        self._reset(0)

    def _reset(self, length: int) -> None:
        self.length = length
        self._live, self._live_groups = 1, 0
        self._gaps = 0

    def cut(self, length: int) -> None:
        """Keep the first ``length`` tokens. A memory that cannot be cut there is emptied instead."""
        if length >= self.length:
            return
        cuts_prefix = self._live_groups and length < len(self._prefix)
        if not length or cuts_prefix or not self._context.model.can_roll_back:
            self.clear()
            return
        for sequence in self._sequences():
            self._context.remove(sequence, length)
        self.length = length

    def make_room(self, rows: int) -> None:
        """For ``rows`` more; after many gaps that takes a compaction."""
        if self.length + self._gaps + len(self._prefix) + rows > self._context.settings.cells:
            self._compact()

    def extended(self, count: int) -> None:
        """``count`` more tokens of the conversation were decoded in sequence 0."""
        start, self.length = self.length, self.length + count
        self._mirror(0, start)

    # -- one step ---------------------------------------------------------------------------------

    def layout(self, tree: DraftTree) -> Layout:
        """``tree`` behind the conversation, with room for it, and as many sequences live as it uses."""
        if self.length < len(self._prefix):  # sequences that share a row must end at the same position
            tree = tree.without_lookahead()
        layout = tree.layout(self.length, self._first_group)
        self.make_room(len(layout.rows))
        self._enliven(layout)
        return layout

    def commit(self, layout: Layout, path: Sequence[int]) -> None:
        """``layout`` was decoded: keep the nodes of ``path``, from the root on, and nothing else."""
        start, end = self.length, self.length + len(path)
        keeper = layout.shape.a_sequence[path[-1]]
        if len(layout.rows) > 1:
            self._leave_gaps(layout, path)
            for sequence in self._sequences():
                self._context.remove(sequence, end if sequence == keeper else start)
        self._mirror(keeper, start)
        self.length = end

    def _sequences(self) -> Iterator[int]:
        """All that mirror sequence 0, and itself."""
        first = self._first_group or 0
        return itertools.chain(range(self._live), range(first, first + self._live_groups))

    def _mirror(self, source: int, start: int) -> None:
        for sequence in self._sequences():
            if sequence != source:
                self._context.copy(source, sequence, start)

    def _enliven(self, layout: Layout) -> None:
        for sequence in range(self._live, layout.shape.n_paths):
            self._context.copy(0, sequence, 0)
        self._live = max(self._live, layout.shape.n_paths)
        first = self._first_group
        if first is None or layout.shape.n_groups <= self._live_groups:
            return
        if not self._live_groups:
            self._decode_prefix(first)
            self._context.copy(0, first, 0)
        for sequence in range(first + max(1, self._live_groups), first + layout.shape.n_groups):
            self._context.copy(first, sequence, 0)
        self._live_groups = layout.shape.n_groups

    def _decode_prefix(self, sequence: int) -> None:
        self._context.keep_hidden(False)
        self._context.decode_embeddings(
            rows_of_sequence(0, len(self._prefix), sequence=sequence), self._prefix
        )

    def _leave_gaps(self, layout: Layout, path: Sequence[int]) -> None:
        # Attention adds up cells in the order they lie in memory. A cell freed before the last
        # accepted one would be filled by a later token, out of order, and change the last bits of
        # what follows; so it stays taken, by a sequence that nobody reads, until the next compaction.
        for node in set(range(path[-1])) - set(path):
            position = int(layout.rows.positions[node])
            self._context.copy(layout.shape.a_sequence[node], self._spacer, position, position + 1)
            self._gaps += 1

    # -- saved and restored: cells keep their bits and their order, and lose the gaps between them -------

    def save(self) -> bytes:
        """The conversation's cells, as llama.cpp writes them."""
        return self._context.save_sequence(0)

    def restore(self, state: bytes) -> None:
        """Hold what was saved, and nothing else. Raises ContextError, and is empty then."""
        self.clear()
        try:
            self._context.restore_sequence(0, state)
        except BaseException:
            self.clear()
            raise
        self._reset(self._context.last_position(0) + 1)

    def _compact(self) -> None:
        self.restore(self.save())
