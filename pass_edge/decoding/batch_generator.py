"""Many prompts answered at once, without drafts: each forward pass decodes one token of every conversation.

A pass over n tokens costs less than n passes over one token, so text is generated in bulk this way.
"""

from __future__ import annotations

import dataclasses
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
    norm; float32 views that are valid until the next pass. Where a prompt is read, ``running`` is that prompt
    again and again, and ``tokens`` are the prompt's."""

    running: tuple[int, ...]
    tokens: tuple[int, ...]
    logits: Floats
    hidden: Floats


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
        """Answer ``prompts`` (at most ``sequences``), and yield each pass. An answer ends at its end token,
        at ``max_tokens``, or when its conversation is full. It is the answer of ``Engine.stream`` if the
        backend is batch-invariant. ``scored_from``: passes over the prompts are yielded too, before, from
        their tokens of that index on (at least 1). Raises ContextError."""
        self._context.clear()
        for sequence, prompt in enumerate(prompts):
            n_silent = len(prompt) - 1 if scored_from is None else min(scored_from, len(prompt)) - 1
            self._context.keep_hidden(False)
            self._prefill(sequence, prompt[:n_silent])
            self._context.keep_hidden(True)
            yield from self._score(sequence, prompt, n_silent)
        conversations = [list(prompt) for prompt in prompts]
        running = list(range(len(prompts)))
        while running:
            self._decode(conversations, running)
            logits = self._context.logits(len(running))
            tokens = []
            for sequence, row in zip(running, logits, strict=True):
                history = conversations[sequence]
                tokens.append(samplers[sequence].choose(row, len(history), history))
                history.append(tokens[-1])
            yield Pass(tuple(running), tuple(tokens), logits, self._context.hidden(len(running)))
            running = [s for s in running if self._goes_on(conversations[s], len(prompts[s]), max_tokens)]

    def _prefill(self, sequence: int, tokens: Sequence[int]) -> None:
        size = self._context.settings.batch_size
        for start in range(0, len(tokens), size):
            part = np.array(tokens[start : start + size], np.int32)
            self._context.decode_tokens(rows_of_sequence(start, len(part), sequence=sequence), part)

    def _score(self, sequence: int, prompt: Sequence[int], start: int) -> Iterator[Pass]:
        """Decode ``prompt`` from index ``start`` on, but for its last token, and yield what predicts it."""
        for first in range(start, len(prompt) - 1, _READ_ROWS):
            part = np.array(prompt[first : min(first + _READ_ROWS, len(prompt) - 1)], np.int32)
            n = len(part)
            self._context.decode_tokens(rows_of_sequence(first, n, sequence=sequence, outputs=n), part)
            tokens = tuple(prompt[first + 1 : first + 1 + n])
            yield Pass((sequence,) * n, tokens, self._context.logits(n), self._context.hidden(n))

    def _decode(self, conversations: Sequence[Sequence[int]], running: Sequence[int]) -> None:
        n = len(running)
        rows = Rows(
            positions=np.array([len(conversations[s]) - 1 for s in running], np.int32),
            sequence_offsets=np.arange(n + 1, dtype=np.int32),
            sequence_ids=np.array(running, np.int32),
            outputs=np.ones(n, np.bool_),
        )
        self._context.decode_tokens(rows, np.array([conversations[s][-1] for s in running], np.int32))

    def _goes_on(self, ids: Sequence[int], prompt: int, max_tokens: int) -> bool:
        ended = self._model.vocabulary.is_end(ids[-1])
        return not ended and len(ids) - prompt < max_tokens and len(ids) < self.length

    def close(self) -> None:
        """Free the cache; safe to call twice."""
        self._context.close()

    def __enter__(self) -> BatchGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
