"""Forward passes that conversations share: what several threads want decoded goes through llama.cpp at once.

A thread hands in what it wants and waits. Whoever finds nobody leading *leads*: it waits until every
conversation that was in the last pass is here again, or has let ``PATIENCE`` pass, decodes what fits into one
pass, in the order of asking, and gives each its slice. A prompt's batch is a pass of its own.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pass_edge.drafting.tree import DraftTree, Layout
from pass_edge.native.batch import joined
from pass_edge.native.context import Context, Floats
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import ContextError
from pass_edge.settings import MAX_ROWS

from .kv_cache import ConversationCache, KVCache

PATIENCE = 0.005
"""Seconds that a pass waits for those of the last one: more than it takes to turn a token into text, less
than a reader of the others' would see."""


class Inputs:
    """What rows of a layout are as embeddings: token rows and lookahead rows (L, n_embd) float32.
    Attributes: ``prefix``, (P, n_embd) float32, what only lookahead rows see."""

    def __init__(self, embeddings: TokenEmbeddings, lookahead: Floats, prefix: Floats | None = None) -> None:
        self._embeddings = embeddings
        self._lookahead = lookahead
        self.prefix = lookahead[:0] if prefix is None else prefix

    def of(self, inputs: np.ndarray) -> Floats:
        """(m,) layout inputs → (m, n_embd) float32."""
        is_token = inputs >= 0
        rows = np.empty((len(inputs), self._lookahead.shape[1]), np.float32)
        rows[is_token] = self._embeddings.rows(inputs[is_token])
        rows[~is_token] = self._lookahead[-1 - inputs[~is_token]]
        return rows


@dataclass(frozen=True)
class BatchResult:
    """What a pass gave one conversation, for the m rows of ``layout``: ``logits`` (m, n_vocab) and ``hidden``
    (m, n_embd) float32, None where it was not kept; valid until the next pass. The pass had ``rows`` in all,
    of ``sharing`` conversations, and took ``seconds``."""

    layout: Layout
    logits: Floats
    hidden: Floats | None
    rows: int
    sharing: int
    seconds: float


class _Wanted:
    """What a thread waits for: that ``tree`` is decoded, or else ``tokens``."""

    def __init__(
        self,
        cells: ConversationCache,
        tree: DraftTree | None,
        tokens: Sequence[int] = (),
        hidden: bool = False,
    ) -> None:
        self.cells, self.tree, self.tokens, self.hidden = cells, tree, tokens, hidden
        self.rows = len(tree.tokens) + sum(tree.lookahead) if tree else len(tokens)
        self.part: BatchResult | None = None
        self.error: BaseException | None = None
        self.is_done = False


class Batcher:
    """The one way into a context, for several threads.

    Attributes: ``context``; ``cells``, those of each conversation; ``room``, tokens that each may hold.
    """

    def __init__(
        self, context: Context, inputs: Inputs | None = None, *, parallel: int = 1, widest: int = MAX_ROWS
    ) -> None:
        """``inputs`` is needed where there are lookahead tokens; conversations share passes of up to
        ``widest`` rows."""
        self.context = context
        self._inputs = inputs
        self._widest = widest
        self._cache = KVCache(context, inputs.prefix if inputs else np.zeros((0, 0), np.float32), parallel)
        self.cells, self.room = self._cache.conversations, self._cache.room
        self._changed = threading.Condition()
        self._waiting: list[_Wanted] = []
        self._leads = False
        self._expected: set[ConversationCache] = set()
        self._ended = 0.0

    @property
    def are_shared(self) -> bool:
        """Whether there may be several conversations."""
        return len(self.cells) > 1

    # -- what a conversation asks -----------------------------------------------------------------

    def step(self, cells: ConversationCache, tree: DraftTree, *, hidden: bool = False) -> BatchResult:
        """Decode ``tree`` behind ``cells``; ``commit`` comes next. ``hidden``: keep hidden states. Raises
        ContextError."""
        wanted = _Wanted(cells, tree, hidden=hidden)
        self._await(wanted)
        assert wanted.part
        return wanted.part

    def read(self, cells: ConversationCache, tokens: Sequence[int]) -> None:
        """Decode ``tokens``, a batch of them at most, behind ``cells``. Raises ContextFullError,
        ContextError."""
        self._await(_Wanted(cells, None, tokens))

    def commit(self, cells: ConversationCache, layout: Layout, path: Sequence[int]) -> None:
        """Keep the nodes of ``path`` of what ``step`` decoded."""
        with self._changed:
            cells.commit(layout, path)
            self._changed.notify_all()

    def forget(self, cells: ConversationCache) -> None:
        """Empty ``cells``, whatever state they are in."""
        with self._changed:
            cells.clear()
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else uses the context meanwhile, or what conversations share besides."""
        with self._changed:
            yield

    @contextmanager
    def settled(self) -> Iterator[None]:
        """``alone``, with all that was decoded committed."""
        with self._changed:
            self._changed.wait_for(lambda: self._cache.is_settled)
            yield

    # -- leading ----------------------------------------------------------------------------------

    def _await(self, wanted: _Wanted) -> None:
        with self._changed:
            self._waiting.append(wanted)
            self._changed.notify_all()
            try:
                while not wanted.is_done:
                    if self._leads:
                        self._changed.wait()
                    else:
                        self._lead()
            finally:
                if wanted in self._waiting:
                    self._waiting.remove(wanted)
        if wanted.error:
            raise wanted.error

    def _lead(self) -> None:
        self._leads = True
        try:
            left = self._ended + PATIENCE - time.perf_counter()
            self._changed.wait_for(self._is_full, max(0.0, left))
            self._decode_next()
        finally:
            self._leads = False
            self._changed.notify_all()

    def _is_full(self) -> bool:
        """Whether it is of no use to wait for others."""
        here = {wanted.cells for wanted in self._waiting}
        return (
            self._expected <= here
            or not self._waiting[0].tree
            or sum(wanted.rows for wanted in self._waiting) >= self._widest
        )

    def _decode_next(self) -> None:
        if self._is_short():
            self._changed.wait_for(lambda: self._cache.is_settled)
        together = self._next()
        try:
            if self._is_short():
                self._cache.compact()
            self._decode(together)
        except BaseException as error:
            for wanted in together:
                wanted.error = error if isinstance(error, Exception) else ContextError(_INTERRUPTED)
            if not isinstance(error, Exception):
                raise
        finally:
            for wanted in together:
                wanted.is_done = True
            self._expect(together)

    def _expect(self, together: list[_Wanted]) -> None:
        self._waiting = [wanted for wanted in self._waiting if not wanted.is_done]
        here = {wanted.cells for wanted in (*together, *self._waiting)}
        self._expected = here if together[0].tree else here | self._expected
        self._ended = time.perf_counter()

    def _is_short(self) -> bool:
        return self._cache.is_short_of(sum(wanted.rows for wanted in self._next()))

    def _next(self) -> list[_Wanted]:
        """Those whose turn it is: a prompt's batch, or as many steps as fit."""
        first, *others = self._waiting
        if not first.tree:
            return [first]
        together, rows = [first], first.rows
        for wanted in others:
            if wanted.tree and rows + wanted.rows > self._widest:
                break
            if wanted.tree:
                together.append(wanted)
                rows += wanted.rows
        return together

    def _decode(self, together: list[_Wanted]) -> None:
        began = time.perf_counter()
        if not together[0].tree:
            self._read(together[0])
            return
        layouts = [wanted.cells.layout(wanted.tree) for wanted in together if wanted.tree]
        hidden = any(wanted.hidden for wanted in together)
        self._decode_layouts(layouts, hidden)
        ends = list(itertools.accumulate(len(layout.rows) for layout in layouts))
        logits = self.context.logits(ends[-1])
        states = self.context.hidden(ends[-1]) if hidden else None
        if self.are_shared:  # somebody else's pass may come before this one is looked at
            logits, states = logits.copy(), None if states is None else states.copy()
        seconds = time.perf_counter() - began
        for wanted, layout, start, end in zip(together, layouts, [0, *ends], ends, strict=False):
            wanted.part = BatchResult(
                layout,
                logits[start:end],
                None if states is None else states[start:end],
                ends[-1],
                len(together),
                seconds,
            )

    def _read(self, wanted: _Wanted) -> None:
        rows = wanted.cells.next_rows(len(wanted.tokens))
        self.context.keep_hidden(False)
        self.context.decode_tokens(rows, np.array(wanted.tokens, np.int32))
        wanted.cells.extended()

    def _decode_layouts(self, layouts: list[Layout], hidden: bool) -> None:
        rows = joined([layout.rows for layout in layouts])
        inputs = np.concatenate([layout.inputs for layout in layouts])
        self.context.keep_hidden(hidden)
        if not any(any(layout.tree.lookahead) for layout in layouts):
            self.context.decode_tokens(rows, inputs)
        else:
            assert self._inputs is not None, "lookahead tokens without lookahead embeddings"
            self.context.decode_embeddings(rows, self._inputs.of(inputs))


_INTERRUPTED = "the pass was interrupted by another conversation that shared it"
