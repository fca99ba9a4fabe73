"""The draft heads of a model's lookahead: run them, and choose the device that runs them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pass_edge.native.devices import cpu_device, gpu_device
from pass_edge.native.draft_head import DraftHead, OutputRows
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LibraryError
from pass_edge.sampling.noise import Int64s

from .lookahead import Floats, Lookahead

_TIMED_STEPS = 8


@dataclass(frozen=True)
class HeadLogits:
    """Logits of one drafted token, for a part of the vocabulary or for all of it.

    ``logits``: (m,) float32. ``tokens``: (m,) int64, the tokens that they are of; None where they are of all
    ``n_vocab`` tokens. ``max_logit``: the largest logit. ``confidence``: the probability that they give to
    the token of the largest logit.
    """

    logits: Floats
    tokens: Int64s | None
    n_vocab: int
    max_logit: float
    confidence: float

    @classmethod
    def from_logits(cls, logits: Floats, tokens: Int64s | None, n_vocab: int) -> HeadLogits:
        """Compute ``max_logit`` and ``confidence``."""
        max_logit = float(logits.max())
        return cls(logits, tokens, n_vocab, max_logit, float(1 / np.exp(logits - max_logit).sum()))

    def for_all_tokens(self) -> HeadLogits:
        """Return the same logits for the whole vocabulary: -inf for tokens without one."""
        if self.tokens is None:
            return self
        logits = np.full(self.n_vocab, -np.inf, np.float32)
        logits[self.tokens] = self.logits
        return replace(self, logits=logits, tokens=None)

    def token_at(self, index: int) -> tuple[int, float]:
        """Return the token of ``logits[index]``, and the probability that the logits give it."""
        token = index if self.tokens is None else int(self.tokens[index])
        return token, self.confidence * math.exp(float(self.logits[index]) - self.max_logit)


_HeadStep = tuple[Floats, HeadLogits]
"""The state that a head computes, (n_embd,) float32, and the logits of that state."""


class Heads:
    """The draft heads of one model's lookahead. Close it when done. Not thread-safe."""

    def __init__(
        self,
        lookahead: Lookahead,
        embeddings: TokenEmbeddings,
        *,
        threads: int,
        correct_lookahead: bool = True,
        device: int | None = None,
    ) -> None:
        """``embeddings``: of the model. ``correct_lookahead``: load the head on lookahead outputs besides the
        hidden head. ``device``: ggml's handle; None is the CPU. Raises LibraryError."""
        self._embeddings = embeddings
        self._candidates, self._n_vocab = lookahead.candidates.astype(np.int64), lookahead.base.n_vocab
        self._output = OutputRows(embeddings.output, lookahead.candidates, device or cpu_device())
        try:
            self._correction_head, self._hidden_head = (
                DraftHead(weights, self._output, threads=threads) if weights else None
                for weights in (lookahead.head if correct_lookahead else None, lookahead.hidden_head)
            )
        except LibraryError:
            self._output.close()
            raise

    def correct(self, state: Floats, token: int, previous: Floats) -> _HeadStep | None:
        """Correct a lookahead output, now that the token before the drafted one is known.

        ``state``: (n_embd,) float32, the lookahead output at the position of ``token``; ``previous``: the
        state that ``token`` was drafted from. Returns the corrected state and its logits; None without a head
        on lookahead outputs.
        """
        return self._step(self._correction_head, state, token, previous)

    def advance(self, state: Floats, token: int) -> _HeadStep | None:
        """Advance the hidden state that ``token`` was chosen from, (n_embd,) float32, by that token. Return
        the next state and its logits; None without a hidden head."""
        return self._step(self._hidden_head, state, token, state)

    def _step(self, head: DraftHead | None, state: Floats, token: int, previous: Floats) -> _HeadStep | None:
        if not head:
            return None
        next_state, logits = head.step(state, self._embedding(token), previous)
        return next_state, HeadLogits.from_logits(logits, self._candidates, self._n_vocab)

    def _embedding(self, token: int) -> Floats:
        return self._embeddings.rows(np.array([token], np.int32))[0]

    def step_seconds(self) -> float:
        """Measure the time of one step; the fastest of a few."""
        head = self._correction_head or self._hidden_head
        assert head, "one of the two heads is always loaded"
        zeros = np.zeros(self._embeddings.width, np.float32)
        seconds = []
        for _ in range(_TIMED_STEPS):
            began = time.perf_counter()
            head.step(zeros, zeros, zeros)
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    def close(self) -> None:
        """Free their memory; safe to call twice."""
        for head in (self._correction_head, self._hidden_head):
            if head:
                head.close()
        self._output.close()


def fastest_heads(make: Callable[..., Heads]) -> Heads:
    """Return the heads that ``make`` makes for the CPU, or with ``device`` for the GPU, whichever take less
    time for a step. Heads are so small that either may be faster. Raises LibraryError."""
    on_cpu, gpu = make(), gpu_device()
    if not gpu:
        return on_cpu
    cpu_seconds = on_cpu.step_seconds()
    try:
        on_gpu = make(device=gpu)
        if on_gpu.step_seconds() < cpu_seconds:
            on_cpu.close()
            return on_gpu
        on_gpu.close()
    except LibraryError:  # the GPU has no kernel for the heads' types, or no memory left
        pass
    return on_cpu
