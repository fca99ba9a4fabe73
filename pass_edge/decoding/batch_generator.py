"""Many prompts answered at once, without drafts: each forward pass decodes one token of every conversation.

A pass over n tokens costs less than n passes over one token, so text is generated in bulk this way. The next
prompt takes the place of an answer that has ended. llama.cpp divides a pass in which a sequence between
others is missing; this way, passes stay whole.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pass_edge.native.batch import Rows, rows_of_sequence
from pass_edge.native.context import Context, ContextSettings, Floats
from pass_edge.native.model import Model
from pass_edge.sampling.sampler import Sampler

_READ_ROWS = 128
"""Rows of a prompt that are read at a time if they are scored; only memory for logits depends on it."""


@dataclass(frozen=True)
class Pass:
    """One token for each conversation in ``running`` (indices of prompts): ``tokens``, the ``logits``
    (running, n_vocab) that they were chosen from, and ``hidden`` (running, n_embd), the states after the last
    norm; float32 views that are valid until the next pass. ``ended``: those whose answers these tokens end.
    Where a prompt is read, ``running`` is that prompt again and again, and ``tokens`` are the prompt's."""

    running: tuple[int, ...]
    tokens: tuple[int, ...]
    logits: Floats
    hidden: Floats
    ended: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Conversation:
    """Prompt ``which`` and its answer so far, ``ids``; the answer ends at ``end`` of these at the latest."""

    which: int
    ids: list[int]
    end: int
    sampler: Sampler


class BatchGenerator:
    """A context for ``sequences`` separate conversations of up to ``length`` tokens each. Close it, or use
    it as a context manager. Not thread-safe."""

    def __init__(self, model: Model, settings: ContextSettings, sequences: int, length: int) -> None:
        """``settings``: cache types and threads. Raises ContextError."""
        self.sequences, self.length = sequences, length
        self._model = model
        outputs = max(sequences, _READ_ROWS)
        own = dataclasses.replace(
            settings, cells=sequences * length, sequences=sequences, outputs=outputs, unified=False
        )
        self._context = Context(model, own)

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        samplers: Sequence[Sampler],
        max_tokens: int,
        scored_from: int | None = None,
    ) -> Iterator[Pass]:
        """Answer ``prompts``, ``sequences`` at a time, and yield each pass. An answer ends at its end token,
        at ``max_tokens``, or when its conversation is full, and the next prompt takes its place. It is the
        answer of ``Engine.stream`` if the backend is batch-invariant. ``scored_from``: passes over a prompt
        are yielded too, before its answer, from its tokens of that index on (at least 1). Raises
        ContextError."""
        self._context.clear()
        waiting = deque(
            _Conversation(which, list(prompt), min(len(prompt) + max_tokens, self.length), sampler)
            for which, (prompt, sampler) in enumerate(zip(prompts, samplers, strict=True))
        )
        running: dict[int, _Conversation] = {}  # by sequence
        while running or waiting:
            for sequence in range(self.sequences):
                if sequence not in running and waiting:
                    running[sequence] = waiting.popleft()
                    yield from self._read(sequence, running[sequence], scored_from)
            step = self._decode(dict(sorted(running.items())))
            running = {s: each for s, each in running.items() if each.which not in step.ended}
            yield step

    def _read(self, sequence: int, new: _Conversation, scored_from: int | None) -> Iterator[Pass]:
        """Decode a prompt but for its last token, and yield the passes that are scored."""
        self._context.remove(sequence, 0)
        n_silent = len(new.ids) - 1 if scored_from is None else min(scored_from, len(new.ids)) - 1
        self._context.keep_hidden(False)
        self._prefill(sequence, new.ids[:n_silent])
        self._context.keep_hidden(True)
        yield from self._score(sequence, new, n_silent)

    def _prefill(self, sequence: int, tokens: Sequence[int]) -> None:
        size = self._context.settings.batch_size
        for start in range(0, len(tokens), size):
            part = np.array(tokens[start : start + size], np.int32)
            self._context.decode_tokens(rows_of_sequence(start, len(part), sequence=sequence), part)

    def _score(self, sequence: int, new: _Conversation, start: int) -> Iterator[Pass]:
        """Decode a prompt from index ``start`` on, but for its last token, and yield what predicts it."""
        for first in range(start, len(new.ids) - 1, _READ_ROWS):
            part = np.array(new.ids[first : min(first + _READ_ROWS, len(new.ids) - 1)], np.int32)
            n = len(part)
            self._context.decode_tokens(rows_of_sequence(first, n, sequence=sequence, outputs=n), part)
            tokens = tuple(new.ids[first + 1 : first + 1 + n])
            yield Pass((new.which,) * n, tokens, self._context.logits(n), self._context.hidden(n))

    def _decode(self, running: dict[int, _Conversation]) -> Pass:
        """Append a token to each conversation. ``running``: by sequence, in ascending order."""
        n, conversations = len(running), list(running.values())
        rows = Rows(
            positions=np.array([len(each.ids) - 1 for each in conversations], np.int32),
            sequence_offsets=np.arange(n + 1, dtype=np.int32),
            sequence_ids=np.array(list(running), np.int32),
            outputs=np.ones(n, np.bool_),
        )
        self._context.decode_tokens(rows, np.array([each.ids[-1] for each in conversations], np.int32))
        logits = self._context.logits(n)
        for each, row in zip(conversations, logits, strict=True):
            each.ids.append(each.sampler.choose(row, len(each.ids), each.ids))
        return Pass(
            tuple(each.which for each in conversations),
            tuple(each.ids[-1] for each in conversations),
            logits,
            self._context.hidden(n),
            tuple(each.which for each in conversations if self._has_ended(each)),
        )

    def _has_ended(self, each: _Conversation) -> bool:
        return self._model.vocabulary.is_end(each.ids[-1]) or len(each.ids) >= each.end

    def close(self) -> None:
        """Free the cache; safe to call twice."""
        self._context.close()

    def __enter__(self) -> BatchGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
