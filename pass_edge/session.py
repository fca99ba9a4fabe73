"""One conversation in one context: what is committed to the KV cache, and one step further.

State: the KV cache holds ``tokens``; ``root`` is chosen but not decoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, Floats
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import ContextError

from .cells import SPARE_CELLS, Cells
from .drafter import Outcome
from .sampling import Sampler, Sampling
from .saved import SavedCache, SavedSession, identity, read_session, write_session
from .schedules import Passed, Schedule
from .tree import DraftTree, Layout
from .verify import RULES, Verdict


@dataclass(frozen=True)
class Step:
    """What one forward pass gave. ``tokens``: new ids, at least one; ``drafted``: how deep the tree
    was; ``model_seconds``: time in llama.cpp, read-back included; ``drafting_seconds``: time to plan and
    draft what the next pass verifies; ``logits``: what each token was chosen from, (n_vocab,) float32 each,
    valid until the next pass."""

    tokens: tuple[int, ...]
    drafted: int
    model_seconds: float
    drafting_seconds: float
    logits: tuple[Floats, ...]


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
        return np.concatenate(
            [self._embeddings.rows(inputs[is_token]), self._lookahead[-1 - inputs[~is_token]]]
        )


class Session:
    """A conversation that can be extended, stepped and rolled back. Not thread-safe.

    A failure or an interrupt in the middle of a step leaves an empty session, never a wrong one.
    """

    def __init__(
        self,
        context: Context,
        schedule: Schedule,
        inputs: Inputs | None,
        *,
        n_vocab: int | None = None,
        rule: str = "sampling",
    ) -> None:
        """``inputs`` is needed by schedules that use lookahead; ``n_vocab``: tokens that may be sampled,
        if not all (those behind them are a merged file's lookahead); ``rule``: a name in verify.RULES."""
        self._context = context
        self._schedule = schedule
        self._inputs = inputs
        self._n_vocab = n_vocab
        self._rule = rule
        self._verify = RULES[rule]
        self._cells = Cells(context, inputs.prefix if inputs else np.zeros((0, 0), np.float32))
        self.forget()

    def forget(self) -> None:
        """Empty the cache and start anew."""
        self._cells.clear()
        self.tokens: list[int] = []
        self.root: int | None = None

    def prefill(self, tokens: Sequence[int], wanted: Callable[[], bool] = lambda: True) -> int:
        """Make ``tokens`` (at least one) the conversation so far: all but the last are decoded, the
        last becomes the root. Decodes only what the cache does not hold yet; returns how many tokens
        could be reused. ``wanted`` is asked before each batch: false ends it there, and no step may follow.
        Raises ContextFullError, ContextError."""
        common = _common_prefix(self.tokens, tokens[:-1])
        self.rollback_to(common)
        common = len(self.tokens)
        size = self._context.settings.batch_size
        self._context.keep_hidden(False)
        try:
            self._cells.make_room(len(tokens) - 1 - common)
            for start in range(common, len(tokens) - 1, size):
                if not wanted():
                    break
                part = tokens[start : min(start + size, len(tokens) - 1)]
                self._context.decode_tokens(rows_of_sequence(start, len(part)), np.array(part, np.int32))
                self.tokens += part
            self._cells.extended(len(self.tokens) - common)
        except BaseException:
            self.forget()
            raise
        self.root = tokens[-1] if len(self.tokens) == len(tokens) - 1 else None
        self._schedule.begin(tokens)
        return common

    def rollback_to(self, position: int) -> None:
        """Forget everything from ``position`` on. A memory that cannot be cut is emptied instead."""
        self.root = None
        self._cells.cut(position)
        del self.tokens[self._cells.length :]

    def save(
        self,
        path: str | Path,
        *,
        messages: Sequence[Mapping[str, str]] = (),
        sampling: Sampling | None = None,
        kv: bool = False,
    ) -> None:
        """Write the conversation so far to ``path``, with ``messages`` and ``sampling`` for whoever goes on
        with it, and with the KV cache if ``kv`` is set. Raises OutputError."""
        root = () if self.root is None else (self.root,)
        cache = SavedCache(self._context.layout, self._cells.save()) if kv else None
        model = identity(self._context.model.path)
        write_session(SavedSession(model, (*self.tokens, *root), tuple(messages), sampling, cache), path)

    def load(self, path: str | Path) -> SavedSession:
        """Go on with the conversation in ``path``. A KV cache that fits is restored to the bit; otherwise the
        tokens are decoded again, and ``cache`` is None in what is returned. Raises SessionError and
        ContextFullError, with this session as it was; ContextError, with an empty one."""
        model, settings = self._context.model, self._context.settings
        saved = read_session(path).fitting(
            identity(model.path),
            n_vocab=self._n_vocab or model.n_vocab,
            room=settings.cells - SPARE_CELLS,
            layout=self._context.layout,
        )
        self.forget()
        if saved.cache:
            self._restore(saved.tokens, saved.cache.state)
        if saved.tokens:
            self.prefill(saved.tokens)
        return saved

    def step(self, sampler: Sampler) -> Step:
        """Decode one tree, keep what the model would have said itself, and draft what may follow.
        ``prefill`` must have set the root."""
        assert self.root is not None, "prefill first"
        return self.decode_tree(self._schedule.tree(self.root, len(self.tokens)), sampler)

    def decode_tree(self, tree: DraftTree, sampler: Sampler) -> Step:
        """``step`` with a tree of the caller's choice; its first token must be the root."""
        start = len(self.tokens)
        began = time.perf_counter()
        try:
            layout = self._cells.layout(tree)
            tree = layout.tree
            self._context.keep_hidden(self._schedule.needs_hidden)
            decoding = time.perf_counter()
            logits = self._decode(layout)
            model_seconds = time.perf_counter() - decoding
            history = self._history(sampler, tree.tokens[0])
            verdict = self._verify(tree, logits, sampler, start + 1, history)
            self._cells.commit(layout, verdict.path)
        except BaseException:
            self.forget()
            raise
        new = (*(tree.tokens[node] for node in verdict.path[1:]), verdict.token)
        self.tokens += [tree.tokens[0], *new[:-1]]
        self.root = verdict.token
        committed = time.perf_counter()
        self._schedule.learn(
            Passed(
                tree,
                new,
                self._outcome(tree, layout, verdict, logits),
                sampler.free,
                [*history, *new],
                self._rule,
                start,
                len(layout.rows),
                committed - began,
            )
        )
        drafting_seconds = time.perf_counter() - committed
        drafted = int(layout.shape.depths[: len(tree.tokens)].max())
        chosen_from = tuple(logits[node] for node in verdict.path)
        return Step(new, drafted, model_seconds, drafting_seconds, chosen_from)

    def _decode(self, layout: Layout) -> Floats:
        if (layout.inputs >= 0).all():
            self._context.decode_tokens(layout.rows, layout.inputs)
        else:
            assert self._inputs is not None, "lookahead tokens without lookahead embeddings"
            self._context.decode_embeddings(layout.rows, self._inputs.of(layout.inputs))
        return self._context.logits(len(layout.rows))[:, : self._n_vocab]

    def _history(self, sampler: Sampler, root: int) -> list[int]:
        length = sampler.history_length
        if not length:
            return []
        return [*(self.tokens if length < 0 else self.tokens[-length:]), root]

    def _outcome(self, tree: DraftTree, layout: Layout, verdict: Verdict, logits: Floats) -> Outcome:
        # lookahead token k of the last accepted node drafts the token k + 1 positions after the new root
        node = verdict.path[-1]
        first = layout.shape.group_starts[node]
        group = slice(first, first + tree.lookahead[node])
        if not self._schedule.needs_hidden:
            return Outcome(logits[group])
        hidden = self._context.hidden(len(layout.rows))
        return Outcome(logits[group], hidden[node], hidden[group])

    def _restore(self, tokens: Sequence[int], state: bytes) -> None:
        self._cells.restore(state)
        if self._cells.length not in (len(tokens), len(tokens) - 1):  # the last may not be decoded
            held = self._cells.length
            self.forget()
            raise ContextError(f"the saved KV cache holds {held} tokens of {len(tokens)}")
        self.tokens = list(tokens[: self._cells.length])


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    length = min(len(one), len(other))
    differing = (i for i in range(length) if one[i] != other[i])
    return next(differing, length)
