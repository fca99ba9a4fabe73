"""One conversation in one context: what its KV cache holds, and one step further.

State: the KV cache holds ``tokens``; ``root``, the last token, is chosen but not decoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pass_edge.drafting.drafter import PassOutput, StepResult
from pass_edge.drafting.schedules import Schedule
from pass_edge.drafting.tree import NO_DRAFT, DraftTree
from pass_edge.native.compute import compute
from pass_edge.native.context import Floats
from pass_edge.native.errors import ContextError
from pass_edge.sampling.sampler import Sampler, Sampling

from .batcher import Batcher, BatchResult, PromptRequest, TreeRequest
from .saved_session import SavedCache, SavedSession, identity, read_session, write_session
from .verify import RULES, Verdict


@dataclass(frozen=True)
class Step:
    """What one forward pass gave. ``tokens``: new ids, at least one; ``drafted``: the depth of the draft
    tree; ``model_seconds``: time in llama.cpp, including reading the outputs; ``drafting_seconds``: time to
    plan and draft for the next pass; ``logits``: what each token was chosen from, (n_vocab,) float32 each,
    valid until the next pass of this conversation."""

    tokens: tuple[int, ...]
    drafted: int
    model_seconds: float
    drafting_seconds: float
    logits: tuple[Floats, ...]


class Session:
    """A conversation that can be extended, stepped and rolled back. Not thread-safe, but sessions over one
    batcher may be used from different threads.

    If a step fails, or is interrupted before it is committed, the session is empty, never wrong.
    """

    def __init__(
        self,
        batcher: Batcher,
        schedule: Schedule,
        number: int = 0,
        *,
        n_vocab: int | None = None,
        rule: str = "sampling",
    ) -> None:
        """``number``: which of the batcher's caches is this conversation's; ``n_vocab``: how many tokens may
        be sampled, if not all (a merged file has lookahead rows after them); ``rule``: a name in
        verify.RULES."""
        self._batcher = batcher
        self._context = batcher.context
        self._cache = batcher.caches[number]
        self._schedule = schedule
        self._n_vocab = n_vocab
        self._rule = rule
        self._verify = RULES[rule]
        self.forget()

    def forget(self) -> None:
        """Empty the session."""
        compute(self._cache.clear)
        self.tokens: list[int] = []
        self.root: int | None = None

    def shared_with(self, tokens: Sequence[int]) -> int:
        """Return how many of ``tokens``, without the last, need not be decoded again."""
        return self._cache.longest_kept(common_prefix(self.tokens, tokens[:-1]))

    def prefill(self, tokens: Sequence[int], wanted: Callable[[], bool] = lambda: True) -> int:
        """Make ``tokens`` (at least one) the conversation: decode all but the last, which becomes the root.
        Decode only what the cache does not hold; return how many tokens were reused. ``wanted`` is asked
        before each batch: if it returns false, the rest is not decoded, and no step may follow. Raises
        ContextFullError, ContextError."""
        self.rollback_to(self.shared_with(tokens))
        reused = len(self.tokens)
        size = self._context.settings.batch_size
        for start in range(reused, len(tokens) - 1, size):
            if not wanted():
                break
            self._read(start, tokens[start : min(start + size, len(tokens) - 1)])
        self.root = tokens[-1] if len(self.tokens) == len(tokens) - 1 else None
        compute(lambda: self._schedule.begin(tokens))
        return reused

    def rollback_to(self, position: int) -> None:
        """Forget everything from ``position`` on. A memory that cannot be rolled back there is emptied."""
        self.root = None
        self._read(position, ())

    def _read(self, start: int, tokens: Sequence[int]) -> None:
        """Keep the first ``start`` tokens, and decode ``tokens`` after them."""
        states = self._run(PromptRequest(self._cache, start, tokens))
        del self.tokens[self._cache.length - len(tokens) :]
        if self._schedule.mtp and states is not None:
            self._schedule.mtp.observe_states(len(self.tokens), states)
        self.tokens += tokens

    def _run(self, request: PromptRequest | TreeRequest) -> Any:
        try:
            result = self._batcher.run(request)
        except BaseException:
            if self._cache.length != len(self.tokens):
                self.forget()
            raise
        return result

    def save(
        self,
        path: str | Path,
        *,
        messages: Sequence[Mapping[str, str]] = (),
        sampling: Sampling | None = None,
        kv: bool = False,
    ) -> None:
        """Write the conversation to ``path``, with ``messages`` and ``sampling`` for whoever continues it,
        and with the KV cache if ``kv`` is set. Raises OutputError."""
        saved = replace(self.saved(kv=kv), messages=tuple(messages), sampling=sampling)
        write_session(saved, path)

    def load(self, path: str | Path) -> SavedSession:
        """Continue the conversation in ``path``. Returns and raises as ``restore``; also raises SessionError
        if it cannot be read."""
        return self.restore(read_session(path))

    def saved(self, *, kv: bool) -> SavedSession:
        """Return the conversation, with its KV cache if ``kv`` is set."""
        root = () if self.root is None else (self.root,)
        cache = SavedCache(self._context.layout, compute(self._cache.save)) if kv else None
        return SavedSession(self._model_identity, (*self.tokens, *root), cache=cache)

    def restore(self, saved: SavedSession) -> SavedSession:
        """Continue ``saved``. A KV cache that fits is restored to the bit; otherwise the
        tokens are decoded again, and ``cache`` is None in what is returned. Raises SessionError and
        ContextFullError, with this session unchanged; ContextError, with an empty one."""
        saved = saved.fitting(
            self._model_identity,
            n_vocab=self._n_vocab or self._context.model.n_vocab,
            room=self._batcher.room,
            layout=self._context.layout,
        )
        self.forget()
        if saved.cache:
            self._restore(saved.tokens, saved.cache.state)
        if saved.tokens:
            self.prefill(saved.tokens)
        return saved

    def step(self, sampler: Sampler) -> Step:
        """Decode one draft tree, keep the tokens that verification accepts, and draft what may follow.
        ``prefill`` must have set the root."""
        assert self.root is not None, "prefill first"
        tree = self._schedule.tree(self.root) if self._may_draft(sampler) else NO_DRAFT.below(self.root)
        return self.decode_tree(tree, sampler)

    def _may_draft(self, sampler: Sampler) -> bool:
        return sampler.drafts and self._schedule.may_draft(sampler)

    def decode_tree(self, tree: DraftTree, sampler: Sampler) -> Step:
        """``step`` with a tree of the caller's choice; its first token must be the root."""
        step: Step = self._run(
            TreeRequest(
                self._cache,
                len(self.tokens),
                tree,
                finish=lambda result: self._finish(result, sampler),
                keep_hidden=self._schedule.needs_hidden,
            )
        )
        return step

    def _finish(self, result: BatchResult, sampler: Sampler) -> Step:
        """Verify and commit a decoded tree, and plan the next one; in the computing thread."""
        began = time.perf_counter()
        layout, tree, start = result.layout, result.layout.tree, len(self.tokens)
        logits = result.logits[:, : self._n_vocab]
        history = self._history(sampler, tree.tokens[0])
        verdict = self._verify(tree, logits, sampler, start + 1, history)
        new = (*(tree.tokens[node] for node in verdict.path[1:]), verdict.token)
        may_draft = self._may_draft(sampler)
        own_seconds = result.seconds if result.n_sharing == 1 else None
        rests = may_draft and self._schedule.rests(new, start, own_seconds)
        if self._schedule.mtp and result.mtp_states is not None and not rests:
            self._schedule.mtp.observe_states(start, result.mtp_states[list(verdict.path)])
        replay_seconds = self._cache.commit_path(layout, verdict.path)
        self.tokens += [tree.tokens[0], *new[:-1]]
        self.root = verdict.token
        committed = time.perf_counter()
        if may_draft and not rests:
            self._schedule.learn(
                StepResult(
                    tree,
                    new,
                    self._output(result, logits, verdict),
                    sampler,
                    [*history, *new],
                    self._rule,
                    start,
                    result.n_rows,
                    result.seconds + committed - began,
                    result.n_rows - len(layout.rows),
                    result.n_sharing,
                    result.n_waiting,
                    replay_seconds,
                )
            )
        drafting_seconds = time.perf_counter() - committed
        chosen_from = (logits[node] for node in verdict.path)
        if self._batcher.is_shared:  # another conversation's pass may overwrite them
            chosen_from = (row.copy() for row in chosen_from)
        return Step(new, layout.shape.height, result.seconds, drafting_seconds, tuple(chosen_from))

    def _history(self, sampler: Sampler, root: int) -> list[int]:
        length = sampler.history_length
        if not length:
            return []
        return [*(self.tokens if length < 0 else self.tokens[-length:]), root]

    def _output(self, result: BatchResult, logits: Floats, verdict: Verdict) -> PassOutput:
        # lookahead token k of the last accepted node drafts the token k + 1 positions after the new root
        node = verdict.path[-1]
        first = result.layout.shape.group_starts[node]
        group = slice(first, first + result.layout.tree.lookahead[node])
        if result.hidden is None:
            return PassOutput(logits[group])
        return PassOutput(logits[group], result.hidden[node], result.hidden[group])

    @cached_property
    def _model_identity(self) -> dict[str, str]:
        return identity(self._context.model.path)

    def _restore(self, tokens: Sequence[int], state: bytes) -> None:
        compute(lambda: self._cache.restore(state))
        if self._cache.length not in (len(tokens), len(tokens) - 1):  # the last may not be decoded
            held = self._cache.length
            self.forget()
            raise ContextError(f"the saved KV cache holds {held} tokens of {len(tokens)}")
        self.tokens = list(tokens[: self._cache.length])


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens at the beginning of both are the same."""
    length = min(len(one), len(other))
    differing = (i for i in range(length) if one[i] != other[i])
    return next(differing, length)
