"""The draft heads of a model's lookahead: what they make of hidden states, and where they are computed."""

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

_TRIALS = 8


@dataclass(frozen=True)
class HeadLogits:
    """Of one token to come: ``logits`` (m,) of ``tokens`` (m,), or of all ``n_vocab`` where that is None; of
    others nothing is thought. ``best``: the largest; ``given``: the chance that they give its token."""

    logits: Floats
    tokens: Int64s | None
    n_vocab: int
    best: float
    given: float

    @classmethod
    def by(cls, logits: Floats, tokens: Int64s | None, n_vocab: int) -> HeadLogits:
        best = float(logits.max())
        return cls(logits, tokens, n_vocab, best, float(1 / np.exp(logits - best).sum()))

    def whole(self) -> HeadLogits:
        """The same, with logits of all tokens."""
        if self.tokens is None:
            return self
        logits = np.full(self.n_vocab, -np.inf, np.float32)
        logits[self.tokens] = self.logits
        return replace(self, logits=logits, tokens=None)

    def at(self, place: int) -> tuple[int, float]:
        """The token of a place in ``logits``, and the chance that they give it."""
        token = place if self.tokens is None else int(self.tokens[place])
        return token, self.given * math.exp(float(self.logits[place]) - self.best)


Stepped = tuple[Floats, HeadLogits]  # a head's state, (n_embd,), and what it makes of it


class Heads:
    """The draft heads of one model's lookahead. Close it when done. Not thread-safe."""

    def __init__(
        self,
        lookahead: Lookahead,
        embeddings: TokenEmbeddings,
        *,
        threads: int,
        corrects: bool = True,
        device: int | None = None,
    ) -> None:
        """``embeddings``: the model's. ``corrects``: with the head on lookahead outputs, not only the hidden
        head. ``device``: ggml's handle; None is the CPU. Raises LibraryError."""
        self._embeddings = embeddings
        self._candidates, self._n_vocab = lookahead.candidates.astype(np.int64), lookahead.base.n_vocab
        self._output = OutputRows(embeddings.output, lookahead.candidates, device or cpu_device())
        try:
            self._heads = [
                DraftHead(weights, self._output, threads=threads) if weights else None
                for weights in (lookahead.head if corrects else None, lookahead.hidden_head)
            ]
        except LibraryError:
            self._output.close()
            raise

    def corrected(self, state: Floats, token: int, before: Floats) -> Stepped | None:
        """From a lookahead output (n_embd,) in the place of ``token``, and the state ``before`` it, to the
        state behind it and a guess there; None without a head for that."""
        return self._step(self._heads[0], state, token, before)

    def onward(self, state: Floats, token: int) -> Stepped | None:
        """From the hidden state before ``token``, (n_embd,), to the one behind it and a guess there; None
        without a head for that."""
        return self._step(self._heads[1], state, token, state)

    def _step(self, head: DraftHead | None, state: Floats, token: int, before: Floats) -> Stepped | None:
        if not head:
            return None
        behind, scores = head.step(state, self._embedding(token), before)
        return behind, HeadLogits.by(scores, self._candidates, self._n_vocab)

    def _embedding(self, token: int) -> Floats:
        return self._embeddings.rows(np.array([token], np.int32))[0]

    def seconds(self) -> float:
        """About what a step takes."""
        head = next(filter(None, self._heads))
        nothing = np.zeros(self._embeddings.width, np.float32)
        taken = []
        for _ in range(_TRIALS):
            began = time.perf_counter()
            head.step(nothing, nothing, nothing)
            taken.append(time.perf_counter() - began)
        return min(taken)

    def close(self) -> None:
        """Free their memory; safe to call twice."""
        for head in self._heads:
            if head:
                head.close()
        self._output.close()


def quickest(make: Callable[..., Heads]) -> Heads:
    """What ``make`` makes for the CPU, or of the GPU as its ``device``, whichever takes less time for a step:
    so small are heads that neither is sure to. Raises LibraryError."""
    on_cpu, gpu = make(), gpu_device()
    if not gpu:
        return on_cpu
    seconds = on_cpu.seconds()
    try:
        on_gpu = make(device=gpu)
        if on_gpu.seconds() < seconds:
            on_cpu.close()
            return on_gpu
        on_gpu.close()
    except LibraryError:  # no kernel for what they are stored in, or no memory
        pass
    return on_cpu
