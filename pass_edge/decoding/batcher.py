"""Forward passes that conversations share.

A thread makes a request for its conversation and waits for the result. Every pass runs in the one computing
thread (native/compute.py) as three steps: *gather* the requests that share it, *decode* them, and *finish*
each: its conversation verifies, commits and plans. Nothing else runs there meanwhile, so the KV cache needs
no lock.

A pass is either one batch of a prompt, or the draft trees of as many conversations as fit. It waits until
every conversation of the last pass has made its next request, or ``PATIENCE`` is over.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pass_edge.drafting.tree import DraftTree, Layout
from pass_edge.native.batch import joined
from pass_edge.native.compute import compute
from pass_edge.native.context import Context, Floats
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import ContextError
from pass_edge.settings import MAX_ROWS

from .kv_cache import ConversationCache, KVCache

PATIENCE = 0.005
"""Seconds: longer than a client needs to turn a token into text, shorter than a reader of another answer
notices."""


class InputEmbeddings:
    """The inputs of a layout as embeddings: token rows, and lookahead rows (L, n_embd) float32. Attributes:
    ``prefix``, (P, n_embd) float32, which only lookahead rows attend to."""

    def __init__(self, embeddings: TokenEmbeddings, lookahead: Floats, prefix: Floats | None = None) -> None:
        self._embeddings = embeddings
        self._lookahead = lookahead
        self.prefix = lookahead[:0] if prefix is None else prefix

    def rows(self, inputs: np.ndarray) -> Floats:
        """Return the rows of layout ``inputs`` (m,) int32 as (m, n_embd) float32."""
        is_token = inputs >= 0
        rows = np.empty((len(inputs), self._lookahead.shape[1]), np.float32)
        rows[is_token] = self._embeddings.rows(inputs[is_token])
        rows[~is_token] = self._lookahead[-1 - inputs[~is_token]]
        return rows


@dataclass(frozen=True)
class BatchResult:
    """The part of a pass that belongs to one conversation, for the m rows of ``layout``: ``logits``
    (m, n_vocab) and ``hidden`` (m, n_embd) float32, None if hidden states were not kept; ``mtp_states``
    (m, n_embd) float32, what MTP layers take, None without them; valid until the next pass. The pass decoded
    ``n_rows`` in all, for ``n_sharing`` conversations, in ``seconds``; ``n_waiting`` more waited for another
    one because their trees have another size."""

    layout: Layout
    logits: Floats
    hidden: Floats | None
    mtp_states: Floats | None
    n_rows: int
    n_sharing: int
    seconds: float
    n_waiting: int = 0


@dataclass(eq=False)
class TreeRequest:
    """Decode ``tree`` after the first ``start`` tokens, which are all that ``cache`` holds. ``finish`` is
    called in the computing thread: it must commit the layout, and its result is the request's.
    ``keep_hidden``: keep hidden states too."""

    cache: ConversationCache
    start: int
    tree: DraftTree
    finish: Callable[[BatchResult], Any]
    keep_hidden: bool = False
    future: Future[Any] = field(default_factory=Future)

    @property
    def n_rows(self) -> int:
        return len(self.tree.tokens) + sum(self.tree.lookahead)


@dataclass(eq=False)
class PromptRequest:
    """Keep the first ``start`` tokens in ``cache`` and decode ``tokens``, at most a batch, after them. The
    result is a copy of the states that MTP layers take, (n, n_embd) float32; None without them."""

    cache: ConversationCache
    start: int
    tokens: Sequence[int]
    future: Future[Any] = field(default_factory=Future)

    @property
    def n_rows(self) -> int:
        return len(self.tokens)


class Batcher:
    """Runs the forward passes of all sessions over a context, for several threads.

    Attributes: ``context``; ``caches``, one for each conversation; ``room``: tokens that each may hold;
    ``limits``: which trees can be verified; ``is_shared``: whether there may be several conversations.
    """

    def __init__(
        self,
        context: Context,
        embeddings: InputEmbeddings | None = None,
        *,
        parallel: int = 1,
        max_rows: int = MAX_ROWS,
    ) -> None:
        """``embeddings`` are needed for lookahead tokens. Trees share a pass as long as it has ``max_rows``
        or fewer."""
        self.context = context
        self._embeddings = embeddings
        self._max_rows = max_rows
        prefix = embeddings.prefix if embeddings else np.zeros((0, 0), np.float32)
        self._kv_cache = KVCache(context, prefix, parallel)
        self.caches, self.room = self._kv_cache.conversations, self._kv_cache.room
        self.limits = self._kv_cache.limits
        self.is_shared = parallel > 1
        self._arrived = threading.Condition()
        self._waiting: list[TreeRequest | PromptRequest] = []
        self._expected: set[ConversationCache] = set()
        self._last_end = 0.0

    def run(self, request: TreeRequest | PromptRequest) -> Any:
        """Return the result of ``request``, in a pass that it may share. If the pass fails, the
        conversation's cache is empty. Raises ContextFullError, ContextError, and what ``finish`` raises."""
        with self._arrived:
            self._waiting.append(request)
            self._arrived.notify()
        try:
            # the first thread in the queue runs the pass for all; the others find their future done
            compute(lambda: self._run_until(request.future))
        finally:
            with self._arrived:
                if request in self._waiting:
                    self._waiting.remove(request)
        return request.future.result()

    # -- in the computing thread ------------------------------------------------------------------

    def _run_until(self, future: Future[Any]) -> None:
        while not future.done():
            batch = self._gather()
            if isinstance(batch, PromptRequest):
                self._run_prompt(batch)
            else:
                self._run_trees(batch)
            self._last_end = time.perf_counter()

    def _gather(self) -> PromptRequest | list[TreeRequest]:
        """Take what the next pass decodes from the requests that wait."""
        with self._arrived:
            patience = self._last_end + PATIENCE - time.perf_counter()
            self._arrived.wait_for(self._is_complete, max(0.0, patience))
            present = {request.cache for request in self._waiting}
            first = self._waiting[0]
            if isinstance(first, PromptRequest):
                # the conversations of the last shared pass are still expected in the next one
                self._expected |= present
                self._waiting.remove(first)
                return first
            self._expected = present
            batch = self._fitting_trees()
            self._waiting = [request for request in self._waiting if request not in batch]
            return batch

    def _is_complete(self) -> bool:
        """Return whether waiting longer is pointless."""
        return (
            self._expected <= {request.cache for request in self._waiting}
            or isinstance(self._waiting[0], PromptRequest)
            or sum(request.n_rows for request in self._waiting) >= self._max_rows
        )

    def _fitting_trees(self) -> list[TreeRequest]:
        """Return the trees that share the next pass: as many as fit, in the order of asking, at least one.

        With a recurrent memory, all of them have as many rows as the first one. llama.cpp would cut other
        batches into several passes, each of which may move the states of other conversations.
        """
        batch: list[TreeRequest] = []
        rows = 0
        for request in self._waiting:
            if isinstance(request, PromptRequest):
                continue
            if batch and self.limits.chains_only and request.n_rows != batch[0].n_rows:
                continue
            rows += request.n_rows
            if batch and rows > self._max_rows:
                break
            batch.append(request)
        return batch

    def _run_prompt(self, request: PromptRequest) -> None:
        try:
            request.cache.truncate(request.start)
            if request.tokens:
                self._make_room(request.n_rows)
                rows = request.cache.layout_prompt(request.n_rows)
                self.context.keep_hidden(False)
                self.context.decode_tokens(rows, np.array(request.tokens, np.int32))
                request.cache.commit_prompt()
            states = self._mtp_states(request.n_rows)
            request.future.set_result(None if states is None else states.copy())
        except BaseException as error:
            _fail(request, error)

    def _mtp_states(self, count: int) -> Floats | None:
        return self.context.mtp_states(count) if count and self.context.keeps_mtp_states else None

    def _run_trees(self, batch: Sequence[TreeRequest]) -> None:
        try:
            self._make_room(sum(request.n_rows for request in batch))
            results = self._decode_trees(batch)
        except BaseException as error:
            for request in batch:
                _fail(request, error)
            return
        for request, result in zip(batch, results, strict=True):
            try:
                request.future.set_result(request.finish(result))
            except BaseException as error:
                _fail(request, error)

    def _make_room(self, rows: int) -> None:
        if self._kv_cache.needs_compaction(rows):
            self._kv_cache.compact()

    def _decode_trees(self, batch: Sequence[TreeRequest]) -> list[BatchResult]:
        began = time.perf_counter()
        keep_hidden = any(request.keep_hidden for request in batch)
        layouts = [_layout(request) for request in batch]
        self._decode_layouts(layouts, keep_hidden)
        ends = list(itertools.accumulate(len(layout.rows) for layout in layouts))
        n_rows = ends[-1]
        logits = self.context.logits(n_rows)
        hidden = self.context.hidden(n_rows) if keep_hidden else None
        mtp_states = self._mtp_states(n_rows)
        seconds = time.perf_counter() - began
        n_waiting = len(self._expected) - len(batch) if self.limits.chains_only else 0
        slices = itertools.starmap(slice, zip([0, *ends], ends, strict=False))
        return [
            BatchResult(
                layout,
                logits[own],
                None if hidden is None else hidden[own],
                None if mtp_states is None else mtp_states[own],
                n_rows,
                len(batch),
                seconds,
                n_waiting,
            )
            for layout, own in zip(layouts, slices, strict=True)
        ]

    def _decode_layouts(self, layouts: list[Layout], keep_hidden: bool) -> None:
        rows = joined([layout.rows for layout in layouts])
        inputs = np.concatenate([layout.inputs for layout in layouts])
        self.context.keep_hidden(keep_hidden)
        if not any(any(layout.tree.lookahead) for layout in layouts):
            self.context.decode_tokens(rows, inputs)
        else:
            assert self._embeddings is not None, "lookahead tokens without lookahead embeddings"
            self.context.decode_embeddings(rows, self._embeddings.rows(inputs))


def _layout(request: TreeRequest) -> Layout:
    if request.cache.length != request.start:  # a compaction that failed has emptied it
        raise ContextError("the conversation's KV cache was lost; read its prompt again")
    return request.cache.layout_tree(request.tree)


def _fail(request: TreeRequest | PromptRequest, error: BaseException) -> None:
    request.cache.clear()
    request.future.set_exception(error)
