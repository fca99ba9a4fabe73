"""One conversation in one context: what is committed to the KV cache, and one step further.

State: the KV cache holds ``tokens``; ``root`` is chosen but not decoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pass_edge.drafting.drafter import PassOutput
from pass_edge.drafting.schedules import Schedule, StepResult
from pass_edge.drafting.tree import DraftTree
from pass_edge.native.compute import compute
from pass_edge.native.context import Floats
from pass_edge.native.errors import ContextError
from pass_edge.sampling.sampler import Sampler, Sampling

from .batcher import Batcher, BatchResult
from .saved_session import SavedCache, SavedSession, identity, read_session, write_session
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


class Session:
    """A conversation that can be extended, stepped and rolled back. Not thread-safe, but others over the same
    passes may be used from other threads meanwhile.

    A failure in the middle of a step leaves an empty session, never a wrong one; so does an interrupt, or it
    is raised behind the step.
    """

    def __init__(
        self,
        passes: Batcher,
        schedule: Schedule,
        number: int = 0,
        *,
        n_vocab: int | None = None,
        rule: str = "sampling",
    ) -> None:
        """``number``: of the conversation, among those that ``passes`` has cells for; ``n_vocab``: tokens
        that may be sampled, if not all (those behind them are a merged file's lookahead); ``rule``: a name in
        verify.RULES."""
        self._passes = passes
        self._context = passes.context
        self._schedule = schedule
        self._n_vocab = n_vocab
        self._rule = rule
        self._verify = RULES[rule]
        self._cells = passes.cells[number]
        self.forget()

    def forget(self) -> None:
        """Empty the cache and start anew."""
        self._passes.forget(self._cells)
        self.tokens: list[int] = []
        self.root: int | None = None

    def shared_with(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens``, but for the last, would not have to be decoded again."""
        return _common_prefix(self.tokens, tokens[:-1])

    def prefill(self, tokens: Sequence[int], wanted: Callable[[], bool] = lambda: True) -> int:
        """Make ``tokens`` (at least one) the conversation so far: all but the last are decoded, the
        last becomes the root. Decodes only what the cache does not hold yet; returns how many tokens
        could be reused. ``wanted`` is asked before each batch: false ends it there, and no step may follow.
        Raises ContextFullError, ContextError."""
        self.rollback_to(self.shared_with(tokens))
        common = len(self.tokens)
        size = self._context.settings.batch_size
        try:
            for start in range(common, len(tokens) - 1, size):
                if not wanted():
                    break
                part = tokens[start : min(start + size, len(tokens) - 1)]
                self._passes.read(self._cells, part)
                self.tokens += part
        except BaseException:
            self.forget()
            raise
        self.root = tokens[-1] if len(self.tokens) == len(tokens) - 1 else None
        with self._passes.alone():
            self._schedule.begin(tokens)
        return common

    def rollback_to(self, position: int) -> None:
        """Forget everything from ``position`` on. A memory that cannot be cut is emptied instead."""
        self.root = None
        with self._passes.alone():
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
        cache = SavedCache(self._context.layout, self._saved_cells()) if kv else None
        model = identity(self._context.model.path)
        write_session(SavedSession(model, (*self.tokens, *root), tuple(messages), sampling, cache), path)

    def load(self, path: str | Path) -> SavedSession:
        """Go on with the conversation in ``path``. A KV cache that fits is restored to the bit; otherwise the
        tokens are decoded again, and ``cache`` is None in what is returned. Raises SessionError and
        ContextFullError, with this session as it was; ContextError, with an empty one."""
        model = self._context.model
        saved = read_session(path).fitting(
            identity(model.path),
            n_vocab=self._n_vocab or model.n_vocab,
            room=self._passes.room,
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
        root = self.root
        assert root is not None, "prefill first"

        def step() -> Step:
            return self.decode_tree(self._schedule.tree(root), sampler)

        # a pass and the heads that draft from it, handed over once; others could not lead meanwhile
        return step() if self._passes.are_shared else compute(step)

    def decode_tree(self, tree: DraftTree, sampler: Sampler) -> Step:
        """``step`` with a tree of the caller's choice; its first token must be the root."""
        start = len(self.tokens)
        try:
            part = self._passes.step(self._cells, tree, hidden=self._schedule.needs_hidden)
            began = time.perf_counter()
            tree, logits = part.layout.tree, part.logits[:, : self._n_vocab]
            history = self._history(sampler, tree.tokens[0])
            verdict = self._verify(tree, logits, sampler, start + 1, history)
            self._passes.commit(self._cells, part.layout, verdict.path)
        except BaseException:
            self.forget()
            raise
        new = (*(tree.tokens[node] for node in verdict.path[1:]), verdict.token)
        self.tokens += [tree.tokens[0], *new[:-1]]
        self.root = verdict.token
        committed = time.perf_counter()
        passed = StepResult(
            tree,
            new,
            self._outcome(part, logits, verdict),
            sampler.unconstrained,
            [*history, *new],
            self._rule,
            start,
            part.rows,
            part.seconds + committed - began,
            part.rows - len(part.layout.rows),
            part.sharing,
        )
        with self._passes.alone():  # heads and costs are for all conversations
            self._schedule.learn(passed)
        drafting_seconds = time.perf_counter() - committed
        chosen_from = tuple(logits[node] for node in verdict.path)
        return Step(new, part.layout.shape.height, part.seconds, drafting_seconds, chosen_from)

    def _history(self, sampler: Sampler, root: int) -> list[int]:
        length = sampler.history_length
        if not length:
            return []
        return [*(self.tokens if length < 0 else self.tokens[-length:]), root]

    def _outcome(self, part: BatchResult, logits: Floats, verdict: Verdict) -> PassOutput:
        # lookahead token k of the last accepted node drafts the token k + 1 positions after the new root
        node = verdict.path[-1]
        first = part.layout.shape.group_starts[node]
        group = slice(first, first + part.layout.tree.lookahead[node])
        if part.hidden is None:
            return PassOutput(logits[group])
        return PassOutput(logits[group], part.hidden[node], part.hidden[group])

    def _saved_cells(self) -> bytes:
        with self._passes.alone():
            return self._cells.save()

    def _restore(self, tokens: Sequence[int], state: bytes) -> None:
        with self._passes.settled():
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
