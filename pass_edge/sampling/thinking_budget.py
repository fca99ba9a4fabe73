"""End a model's thinking after a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pass_edge.native.vocabulary import Vocabulary
from pass_edge.thinking import Thinking

from .sampler import Distribution, Logits, Sampler


class BudgetedSampler(Sampler):
    """A sampler that ends the thinking at the beginning of a text when it has ``budget`` tokens.

    A choice is a pure function of (logits, position, history), as without a budget: after ``budget`` tokens
    without the closing tag, the next tokens are those of the text that ends the thinking.
    """

    def __init__(
        self, inner: Sampler, vocabulary: Vocabulary, start: int, budget: int, thinking: Thinking
    ) -> None:
        """``inner`` chooses all other tokens. ``start``: the first tokens of every history, the prompt."""
        super().__init__(inner.sampling)
        self._inner = inner
        self._vocabulary = vocabulary
        self._begin, self._limit = start, start + budget
        self._thinking = thinking
        self._ending = vocabulary.tokenize(thinking.ending, parse_special=True).tolist()
        self._beginning: list[int] = []
        self._is_thinking = thinking.is_open
        self.seed, self.unconstrained = inner.seed, inner.unconstrained
        self.forced_positions = inner.forced_positions

    @property
    def history_length(self) -> int:
        return -1

    @property
    def adjusts_logits(self) -> bool:
        return self._inner.adjusts_logits

    def choose(self, logits: Logits, position: int, history: Sequence[int] = ()) -> int:
        due = self._due(history)
        if due:
            self.forced_positions.add(position)
            return due[0]
        return self._inner.choose(logits, position, history)

    def distribution(self, logits: Logits, history: Sequence[int] = ()) -> Distribution:
        due = self._due(history)
        if due:
            return Distribution(np.array(due[:1]), np.ones(1))
        return self._inner.distribution(logits, history)

    def forced(self, history: Sequence[int], drafted: Sequence[int] = ()) -> list[int]:
        return self._due(history, drafted) or self._inner.forced(history, drafted)

    def allows(self, history: Sequence[int], drafted: Sequence[int], token: int) -> bool:
        due = self._due(history, drafted)
        return token == due[0] if due else self._inner.allows(history, drafted, token)

    def _due(self, history: Sequence[int], drafted: Sequence[int] = ()) -> list[int]:
        """The tokens that end the thinking after ``history`` and ``drafted``, as far as they are missing."""
        written = len(history) + len(drafted) - self._limit
        if not 0 <= written < len(self._ending):
            return []
        beginning = [*history[self._begin : self._limit], *drafted[: max(0, self._limit - len(history))]]
        return self._ending[written:] if self._still_thinks(beginning) else []

    def _still_thinks(self, beginning: list[int]) -> bool:
        """Whether a text thinks at the end of its ``beginning``, which has as many tokens as the budget."""
        if self._beginning != beginning:
            self._beginning = beginning
            raw = b"".join(self._vocabulary.piece(token, special=True) for token in beginning)
            text, thinking = raw.decode(errors="replace"), self._thinking
            opens = thinking.is_open or text.lstrip().startswith(thinking.opening)
            self._is_thinking = opens and thinking.closing not in text
        return self._is_thinking
