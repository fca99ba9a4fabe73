"""The KV cache shared by all conversations: the one place that shares, keeps and removes its cells.

Each conversation owns a range of llama.cpp's sequences. The first one, its *base*, holds the conversation.
Other sequences are *active* copies of the base: one for each path of a draft tree, and, if lookahead tokens
attend to a prefix, one for each lookahead group, which holds the prefix too. They must be copies because
llama.cpp lets sequences share a row of a batch only while they hold the same cells.

Attention sums over cells in memory order, and llama.cpp fills the first free cells. If a cell before the last
one became free, a later token would fill it, the order of the sum would change, and with it the last bits. So
such a cell stays reserved: it is copied to the *spacer*, a sequence that is never read, until the next
compaction. *Stamps* record the order of cells in memory: rows are numbered as they are decoded.

Recurrent and hybrid models have a state for each sequence too (recurrent_state.py). It cannot be shared, so a
conversation has only its base there, and decodes chains of drafts.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from pass_edge.drafting.tree import NO_DRAFT, DraftTree, Layout, TreeLimits
from pass_edge.native.batch import Rows, rows_of_sequence
from pass_edge.native.context import Context, Floats
from pass_edge.settings import MAX_ROWS, SPARE_CELLS

from .recurrent_state import RecurrentState

_MAX_PATHS = 31
"""Most paths of a tree; each takes a sequence."""
_USUAL_PATHS = 4
"""Small trees are padded to this many paths, so that llama.cpp can reuse its graph; each path costs a little
to commit."""
_FEW_GAPS = 512
"""So few gaps never justify a compaction while there is room: attention skips them one by one."""


def _paths_and_groups(n_prefix: int, parallel: int) -> tuple[int, int]:
    """Return the number of sequences of one conversation: for paths, and for lookahead groups with a
    prefix."""
    if n_prefix and parallel == 1:
        return _MAX_PATHS, MAX_ROWS // 2
    # llama.cpp wants room for as many outputs as there are sequences. And in shared passes, groups with a
    # prefix were measured to change the bits of other conversations, so there are none.
    return min(_MAX_PATHS, (MAX_ROWS - 1) // parallel), 0


def sequences_needed(n_prefix: int, parallel: int = 1, *, chains_only: bool = False) -> int:
    """Return how many sequences the context needs for ``parallel`` conversations and the spacer, if lookahead
    tokens attend to a prefix of ``n_prefix`` rows. ``chains_only``: as in TreeLimits."""
    if chains_only:  # each sequence costs states; chains of one conversation leave no gaps
        return parallel + (parallel > 1)
    return parallel * sum(_paths_and_groups(n_prefix, parallel)) + 1


class KVCache:
    """The KV cache of a context. Not thread-safe.

    Attributes: ``conversations``, a ConversationCache each; ``context``; ``limits``, which trees can be
    verified; ``prefix``, (P, n_embd) float32; ``n_paths``, ``n_groups``: sequences of each conversation for
    paths and for lookahead groups.
    """

    def __init__(self, context: Context, prefix: Floats, parallel: int = 1) -> None:
        """``context`` must have ``sequences_needed`` sequences. Only lookahead rows attend to ``prefix``."""
        self.context, self.limits = context, TreeLimits.of(context)
        self.prefix = prefix[:0] if self.limits.chains_only else prefix
        self._spacer = context.settings.sequences - 1
        chains_only = self.limits.chains_only
        self.n_paths, self.n_groups = (1, 0) if chains_only else _paths_and_groups(len(prefix), parallel)
        self._next_stamp = self._gaps = 0
        self.conversations = [ConversationCache(self, number) for number in range(parallel)]
        self.clear()

    @property
    def room(self) -> int:
        """The number of tokens that each conversation may hold."""
        return self.context.settings.cells // len(self.conversations) - SPARE_CELLS

    def clear(self) -> None:
        """Remove everything."""
        self.context.clear()
        self._next_stamp = self._gaps = 0
        for conversation in self.conversations:
            conversation.reset()

    def needs_compaction(self, rows: int) -> bool:
        """Return whether ``rows`` more do not fit without a compaction, or gaps are so many that one pays."""
        held = sum(conversation.length for conversation in self.conversations)
        reserved = len(self.prefix) * len(self.conversations) + rows * self.limits.chains_only
        is_full = held + self._gaps + reserved + rows > self.context.settings.cells
        return (is_full and self._gaps > 0) or self._gaps > max(_FEW_GAPS, held)

    def compact(self) -> None:
        """Close the gaps; cells keep their bits and their order. No layout may be pending. Raises
        ContextError, with an empty cache."""
        states = [each.save() if each.length else b"" for each in self.conversations]
        self.clear()
        try:
            for conversation, state in zip(self.conversations, states, strict=True):
                if state:
                    conversation.append_saved(state)
        except BaseException:
            self.clear()
            raise

    def take_stamps(self, count: int) -> int:
        """Return the first of ``count`` new stamps."""
        self._next_stamp += count
        return self._next_stamp - count

    def last_stamp_of_others(self, conversation: ConversationCache) -> int:
        """Return the stamp of the last cell of all other conversations, -1 if they are empty."""
        others = (each.last_stamp for each in self.conversations if each is not conversation)
        return max(others, default=-1)

    def reserve_gap(self, sequence: int, start: int, end: int, n_hidden: int = 0) -> None:
        """Keep the cells of ``sequence`` at positions [start, end) taken after they are removed: one for each
        position, and ``n_hidden`` more at the same positions."""
        self.context.copy(sequence, self._spacer, start, end)
        self._gaps += end - start + n_hidden


class ConversationCache:
    """One conversation's cells, at positions 0 … ``length`` - 1."""

    def __init__(self, kv_cache: KVCache, number: int) -> None:
        self._kv_cache, self._context, self._prefix = kv_cache, kv_cache.context, kv_cache.prefix
        self._base = number * (kv_cache.n_paths + kv_cache.n_groups)
        self._first_group = self._base + kv_cache.n_paths
        self._recurrent = RecurrentState(self._context, self._base) if kv_cache.limits.chains_only else None
        self.reset()

    def reset(self, stamps: Sequence[int] = ()) -> None:
        """Record that the context holds nothing of it but cells with ``stamps``, in the base."""
        if self._recurrent:
            self._recurrent.reset()
        self._stamps = list(stamps)
        self._n_active, self._n_active_groups = 1, 0
        self._pending: tuple[Rows, int] | None = None  # rows to be committed, and the stamp of the first

    @property
    def length(self) -> int:
        """The number of tokens of the conversation."""
        return len(self._stamps)

    @property
    def last_stamp(self) -> int:
        """The stamp of its last cell, -1 if it has none."""
        if self._pending:
            rows, first = self._pending
            return first + len(rows) - 1
        return self._stamps[-1] if self._stamps else -1

    def clear(self) -> None:
        """Remove the conversation."""
        if self._kv_cache.last_stamp_of_others(self) < 0:
            self._kv_cache.clear()
            return
        self._reserve_rejected([])
        if self._n_active_groups:  # they hold the prefix at the same positions
            self._kv_cache.reserve_gap(self._first_group, 0, self.length, len(self._prefix))
        elif self.length:
            self._kv_cache.reserve_gap(self._base, 0, self.length)
        for sequence in self._sequences():
            self._context.remove(sequence, 0)
        self.reset()

    def longest_kept(self, length: int) -> int:
        """Return how many of the first ``length`` tokens ``truncate`` keeps."""
        if length >= self.length:
            return self.length
        if self._n_active_groups and length < len(self._prefix):
            return 0
        return self._recurrent.longest_kept(length) if self._recurrent else length

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens; of a recurrent memory, no more than the last prompt. A memory
        that cannot be rolled back there is cleared."""
        if length >= self.length:
            return
        length = self.longest_kept(length)
        if not length:
            self.clear()
            return
        end = bisect_right(self._stamps, self._kv_cache.last_stamp_of_others(self))
        if end > length:
            self._kv_cache.reserve_gap(self._base, length, end)
        if self._recurrent:
            self._recurrent.return_to_prompt()
        else:
            for sequence in self._sequences():
                self._context.remove(sequence, length)
        del self._stamps[length:]

    # -- a prompt: lay out, decode, commit --------------------------------------------------------

    def layout_prompt(self, count: int) -> Rows:
        """Return the rows of the next ``count`` tokens; ``commit_prompt`` follows."""
        return self._set_pending(rows_of_sequence(self.length, count, sequence=self._base))

    def commit_prompt(self) -> None:
        """Keep the rows of ``layout_prompt``, which were decoded."""
        assert self._pending
        (rows, first), start, self._pending = self._pending, self.length, None
        self._stamps += range(first, first + len(rows))
        self._copy_to_active(self._base, start)
        if self._recurrent:
            self._recurrent.extend_prompt()

    # -- a draft tree: lay out, decode, commit ----------------------------------------------------

    def layout_tree(self, tree: DraftTree) -> Layout:
        """Return the layout of ``tree`` after the conversation, and activate the sequences it uses;
        ``commit_path`` follows. Lookahead tokens, then drafts, are dropped if there are too few sequences, or
        the memory cannot verify them."""
        if self.length < len(self._prefix):  # sequences that share a row must end at the same position
            tree = tree.without_lookahead()
        layout = self._layout(tree)
        if not self._fits(layout):
            layout = self._layout(tree.without_lookahead())
        if not self._fits(layout):
            layout = self._layout(NO_DRAFT.below(tree.tokens[0]))
        if self._recurrent:
            copies = layout.shape.height > self._kv_cache.limits.n_kept
            self._recurrent.before_pass(self.length, copies=copies)
        self._activate_sequences(layout)
        self._set_pending(layout.rows)
        return layout

    def commit_path(self, layout: Layout, path: Sequence[int]) -> float:
        """Keep the nodes of ``path``, from the root on, of ``layout``, which was decoded; roll the rest back.
        Return the seconds in which kept nodes were decoded again, where only that rolls a state back."""
        if len(layout.rows) - len(path) > self._kv_cache.limits.n_kept:
            return self._replay([layout.tree.tokens[node] for node in path])
        assert self._pending
        start, end = self.length, self.length + len(path)
        keeper = self._base + layout.shape.path_sequence[path[-1]]
        first = self._pending[1]
        self._reserve_rejected(path)
        if len(layout.rows) > 1:
            for sequence in self._sequences():
                self._context.remove(sequence, end if sequence == keeper else start)
        self._copy_to_active(keeper, start)
        self._stamps += [first + node for node in path]
        return 0.0

    def _replay(self, tokens: Sequence[int]) -> float:
        """Undo the last pass, and decode ``tokens`` in its place; without outputs and states, so those of the
        last pass stay valid. Return the seconds that this takes."""
        assert self._recurrent
        began = time.perf_counter()
        self._reserve_rejected([])
        self._recurrent.undo_pass()
        first = self._kv_cache.take_stamps(len(tokens))
        rows = rows_of_sequence(self.length, len(tokens), sequence=self._base)
        keeps_mtp_states = self._context.keeps_mtp_states
        self._context.keep_hidden(False)
        self._context.keep_mtp_states(False)
        try:
            self._context.decode_tokens(rows, np.array(tokens, np.int32))
        finally:
            self._context.keep_mtp_states(keeps_mtp_states)
        self._stamps += range(first, first + len(tokens))
        return time.perf_counter() - began

    def _set_pending(self, rows: Rows) -> Rows:
        self._pending = rows, self._kv_cache.take_stamps(len(rows))
        return rows

    def _reserve_rejected(self, path: Sequence[int]) -> None:
        """Reserve the pending rows outside ``path`` whose cells come before a cell that is kept."""
        if not self._pending:
            return
        (rows, first), self._pending = self._pending, None
        last = max(self._kv_cache.last_stamp_of_others(self), first + path[-1] if path else -1)
        for row in set(range(min(len(rows), last - first))) - set(path):
            sequence = int(rows.sequence_ids[rows.sequence_offsets[row + 1] - 1])
            position = int(rows.positions[row])
            self._kv_cache.reserve_gap(sequence, position, position + 1)

    def _layout(self, tree: DraftTree) -> Layout:
        kv_cache = self._kv_cache
        # the widths of shared passes vary anyway, so no graph is reused there
        n_usual = _USUAL_PATHS if len(kv_cache.conversations) == 1 and not self._recurrent else 0
        first_group = kv_cache.n_paths if len(self._prefix) else None
        return tree.layout(self.length, self._base, first_group, min_paths=n_usual)

    def _fits(self, layout: Layout) -> bool:
        shape, kv_cache = layout.shape, self._kv_cache
        has_sequences = shape.n_paths <= kv_cache.n_paths and shape.n_groups <= kv_cache.n_groups
        return has_sequences and kv_cache.limits.allow(shape)

    def _sequences(self) -> Iterator[int]:
        """Iterate over the base and its active copies."""
        return itertools.chain(
            range(self._base, self._base + self._n_active),
            range(self._first_group, self._first_group + self._n_active_groups),
        )

    def _copy_to_active(self, source: int, start: int) -> None:
        for sequence in self._sequences():
            if sequence != source:
                self._context.copy(source, sequence, start)

    def _activate_sequences(self, layout: Layout) -> None:
        for number in range(self._n_active, layout.shape.n_paths):
            self._context.copy(self._base, self._base + number, 0)
        self._n_active = max(self._n_active, layout.shape.n_paths)
        if layout.shape.n_groups <= self._n_active_groups:
            return
        first = self._first_group
        if not self._n_active_groups:
            self._decode_prefix()
            self._context.copy(self._base, first, 0)
        for number in range(max(1, self._n_active_groups), layout.shape.n_groups):
            self._context.copy(first, first + number, 0)
        self._n_active_groups = layout.shape.n_groups

    def _decode_prefix(self) -> None:
        self._context.keep_hidden(False)
        rows = rows_of_sequence(0, len(self._prefix), sequence=self._first_group)
        self._kv_cache.take_stamps(len(rows))
        self._context.decode_embeddings(rows, self._prefix)

    # -- saving and restoring: cells keep their bits and their order, without the gaps between them ---

    def save(self) -> bytes:
        """Return the conversation's cells as llama.cpp writes them."""
        return self._context.save_sequence(self._base)

    def restore(self, state: bytes) -> None:
        """Replace the conversation by what ``save`` returned. No layout may be pending. Raises ContextError,
        with an empty cache."""
        self.clear()
        self._kv_cache.compact()  # restored cells are one piece: no free cell may be left before them
        try:
            self.append_saved(state)
        except BaseException:
            self.clear()
            raise

    def append_saved(self, state: bytes) -> None:
        """Put saved cells behind all other cells; the conversation must be empty. Raises ContextError."""
        self._context.restore_sequence(self._base, state)
        length = self._context.last_position(self._base) + 1
        first = self._kv_cache.take_stamps(length)
        self.reset(range(first, first + length))
