"""One conversation in one context: what is committed to the KV cache, and one step further.

State: sequence 0 holds ``tokens``; ``root`` is chosen but not decoded. Every *live* sequence mirrors
sequence 0, because llama.cpp lets sequences share a batch row only while they have not diverged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, Floats
from pass_edge.native.embeddings import TokenEmbeddings

from .drafter import Outcome
from .sampling import Sampler
from .schedules import Passed, Schedule
from .tree import DraftTree, Layout
from .verify import RULES, Verdict

MAX_ROWS = 64
"""Most rows one step may decode."""
SPARE_CELLS = 256
"""KV cells beyond the context size: for a step's drafts, and for the gaps that rejected ones leave."""


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
    """What rows of a layout are as embeddings: token rows and lookahead rows (L, n_embd) float32."""

    def __init__(self, embeddings: TokenEmbeddings, lookahead: Floats) -> None:
        self._embeddings = embeddings
        self._lookahead = lookahead
        self.n_lookahead = len(lookahead)

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
        self._spacer = context.settings.sequences - 1
        self.forget()

    def forget(self) -> None:
        """Empty the cache and start anew."""
        self._context.clear()
        self.tokens: list[int] = []
        self.root: int | None = None
        self._live = 1
        self._gaps = 0

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
            for start in range(common, len(tokens) - 1, size):
                if not wanted():
                    break
                part = tokens[start : min(start + size, len(tokens) - 1)]
                self._context.decode_tokens(rows_of_sequence(start, len(part)), np.array(part, np.int32))
                self.tokens += part
            self._mirror(0, common)
        except BaseException:
            self.forget()
            raise
        self.root = tokens[-1] if len(self.tokens) == len(tokens) - 1 else None
        self._schedule.begin(tokens)
        return common

    def rollback_to(self, position: int) -> None:
        """Forget everything from ``position`` on. A memory that cannot be cut is emptied instead."""
        self.root = None
        if position >= len(self.tokens):
            return
        if not position or not self._context.model.can_roll_back:
            self.forget()
            return
        for sequence in range(self._live):
            self._context.remove(sequence, position)
        del self.tokens[position:]

    def step(self, sampler: Sampler) -> Step:
        """Decode one tree, keep what the model would have said itself, and draft what may follow.
        ``prefill`` must have set the root."""
        assert self.root is not None, "prefill first"
        return self.decode_tree(self._schedule.tree(self.root, len(self.tokens)), sampler)

    def decode_tree(self, tree: DraftTree, sampler: Sampler) -> Step:
        """``step`` with a tree of the caller's choice; its first token must be the root."""
        start = len(self.tokens)
        layout = tree.layout(start)
        began = time.perf_counter()
        try:
            self._make_room(layout)
            self._context.keep_hidden(self._schedule.needs_hidden)
            decoding = time.perf_counter()
            logits = self._decode(layout)
            model_seconds = time.perf_counter() - decoding
            history = self._history(sampler, tree.tokens[0])
            verdict = self._verify(tree, logits, sampler, start + 1, history)
            self._commit(layout, verdict)
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

    # -- the KV cache: the one place that shares, keeps and removes cells -------------------------------

    def _make_room(self, layout: Layout) -> None:
        needed = layout.shape.n_sequences
        if len(self.tokens) + self._gaps + len(layout.rows) > self._context.settings.cells:
            self._compact()
        for sequence in range(self._live, needed):
            self._context.copy(0, sequence, 0)
        self._live = max(self._live, needed)

    def _commit(self, layout: Layout, verdict: Verdict) -> None:
        start, end = len(self.tokens), len(self.tokens) + len(verdict.path)
        keeper = layout.shape.a_sequence[verdict.path[-1]]
        if len(layout.rows) > 1:
            self._leave_gaps(layout, verdict)
            for sequence in range(self._live):
                self._context.remove(sequence, end if sequence == keeper else start)
        self._mirror(keeper, start)

    def _leave_gaps(self, layout: Layout, verdict: Verdict) -> None:
        # Attention adds up cells in the order they lie in memory. A cell freed before the last
        # accepted one would be filled by a later token, out of order, and change the last bits of
        # what follows; so it stays taken, by a sequence that nobody reads, until the next compaction.
        for node in set(range(verdict.path[-1])) - set(verdict.path):
            position = int(layout.rows.positions[node])
            self._context.copy(layout.shape.a_sequence[node], self._spacer, position, position + 1)
            self._gaps += 1

    def _mirror(self, source: int, start: int) -> None:
        for sequence in range(self._live):
            if sequence != source:
                self._context.copy(source, sequence, start)

    def _compact(self) -> None:
        # saved and restored cells keep their bits and their order, and lose the gaps between them
        state = self._context.save_sequence(0)
        self._context.clear()
        self._context.restore_sequence(0, state)
        self._live, self._gaps = 1, 0


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    length = min(len(one), len(other))
    differing = (i for i in range(length) if one[i] != other[i])
    return next(differing, length)
