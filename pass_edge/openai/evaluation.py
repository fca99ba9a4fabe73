"""What `eval`, `sample` and `generate` of `Llama` work on: tokens, and the logits after them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pass_edge.decoding.saved_session import SavedSession
from pass_edge.decoding.session import common_prefix
from pass_edge.engine import Engine
from pass_edge.generation import StoppingCriterion, any_meets
from pass_edge.native.context import Floats
from pass_edge.native.errors import ContextFullError, SettingsError
from pass_edge.sampling.sampler import Sampler


class Evaluation:
    """The tokens that have been evaluated, as llama-cpp-python counts them. The KV cache may hold others by
    now; then they are decoded again when they are needed. Not thread-safe.

    Attributes: ``tokens``, which may be set.
    """

    def __init__(self, engine: Engine, *, keeps_scores: bool) -> None:
        """``keeps_scores``: whether ``scores`` may be asked for."""
        self._engine = engine
        self._keeps_scores = keeps_scores
        self._scores: Floats | None = None
        self._scored: list[int] = []  # the tokens that the first rows of the scores belong to
        self._last: tuple[list[int], Floats] | None = None  # tokens, and the logits after them
        self.tokens: Sequence[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        """Evaluate ``tokens`` after the others. Raises ContextFullError, SettingsError."""
        if len(tokens):
            self._logits_after([*self.tokens, *tokens])
            self.tokens = [*self.tokens, *tokens]

    def sample(self, sampler: Sampler, index: int | None) -> int:
        """Choose the token after the one at ``index``; None is the last."""
        history = self.tokens[: None if index is None else index + 1]
        if not history:
            raise SettingsError("no token has been evaluated; call eval with some first")
        return sampler.choose(self._logits_after(history), len(history), history)

    def generate(
        self, tokens: Sequence[int], sampler: Sampler, criteria: Sequence[StoppingCriterion]
    ) -> Generator[int, Sequence[int] | None, None]:
        """Yield the tokens after ``tokens``, past end tokens too, until one of ``criteria`` is met. Tokens
        that are sent come after the one that was yielded. Raises ContextFullError when the context is
        full."""
        self.tokens = [*tokens]
        while True:
            with closing(self._chosen(sampler, criteria)) as chosen:
                for token in chosen:
                    sent = yield token
                    self.tokens = [*self.tokens, token, *(sent or ())]
                    if sent:
                        break
                else:
                    return

    def _chosen(self, sampler: Sampler, criteria: Sequence[StoppingCriterion]) -> Generator[int, None, None]:
        """Yield the tokens after ``self.tokens``, to which each is added by the caller."""
        for step in self._engine.steps(self.tokens, sampler):
            # copies: the caller may decode other tokens before it takes the next
            logits = [row.copy() for row in step.logits] if criteria else step.logits
            for token, row in zip(step.tokens, logits, strict=True):
                if any_meets(criteria, self.tokens, row):
                    return
                if len(self.tokens) >= self._engine.context_size:
                    raise ContextFullError(f"the context of {len(self.tokens)} tokens is full")
                yield token

    def scores(self) -> Floats:
        """Return the logits after each token, (context size, n_vocab) float32; only the first rows are set,
        one for each token. A row that is not known yet takes a forward pass."""
        if not self._keeps_scores:
            raise SettingsError("the logits of all tokens need Llama(…, logits_all=True)")
        if self._scores is None:  # pages that are not written take no memory
            self._scores = np.empty((self._engine.context_size, self._engine.base.n_vocab), np.float32)
        for i in range(common_prefix(self._scored, self.tokens), len(self.tokens)):
            self._scores[i] = self._logits_after(self.tokens[: i + 1])
        self._scored = [*self.tokens]
        return self._scores

    def _logits_after(self, tokens: Sequence[int]) -> Floats:
        if self._last is None or self._last[0] != tokens:
            self._last = [*tokens], self._engine.logits_after(tokens)
        return self._last[1]

    def save(self, seed: int | None) -> LlamaState:
        """Return the tokens with the KV cache that holds them."""
        saved = self._engine.saved(self.tokens)
        cache = saved.cache.state if saved.cache else b""
        return LlamaState(np.array(self.tokens, np.intc), len(self.tokens), cache, len(cache), seed, saved)

    def load(self, state: LlamaState) -> None:
        """Continue where ``save`` was called. Raises SessionError if it was with another model."""
        if not isinstance(state, LlamaState):
            raise SettingsError("this state was not saved by save_state of this class")
        self._engine.restore(state.saved)
        self.tokens = state.input_ids.tolist()


@dataclass(frozen=True)
class LlamaState:
    """A saved state, with the attributes that llama-cpp-python's caches need. ``saved`` has the tokens that
    the KV cache holds, which may be more than ``input_ids``."""

    input_ids: npt.NDArray[np.intc]
    n_tokens: int
    llama_state: bytes
    llama_state_size: int
    seed: int | None
    saved: SavedSession
