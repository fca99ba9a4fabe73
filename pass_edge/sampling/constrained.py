"""Choosing tokens under a grammar.

A text that must match a grammar is chosen as llama.cpp does it: freely first; where the grammar does not
allow that one token, once more with all that it does not allow at minus infinity. Where the filters (top-k,
top-p, min-p) are off both ways choose the same token; where they are on, they see the free logits first,
and the masked ones only if that choice fell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pass_edge.native.errors import SettingsError
from pass_edge.native.grammar import Grammar
from pass_edge.native.vocabulary import Vocabulary

from .sampler import Distribution, Logits, Sampler, Sampling


class ConstrainedSampler(Sampler):
    """A sampler whose tokens from ``start`` on, up to an end token, spell a text of ``grammar``.

    A choice is a pure function of (logits, position, history), as without a grammar: the grammar's state is
    only a memo of where ``history`` leads. Drafts are made by ``free``, which knows no grammar, so they
    never move it, and what they draft in vain is rejected like any wrong draft.
    """

    def __init__(self, sampling: Sampling, grammar: Grammar, start: int) -> None:
        """``start``: how many tokens at the front of every history (the prompt) the grammar does not mean."""
        super().__init__(sampling)
        self._grammar = grammar
        self._start = start
        self._matched: list[int] = []
        self.free = Sampler(dataclasses.replace(sampling, seed=self.seed))

    @property
    def history_length(self) -> int:
        return -1

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        """As ``Sampler.choose``. Raises SettingsError where the grammar (with the logit bias) allows
        nothing."""
        self._follow(history)
        token = super().choose(logits, position, history)
        if self._grammar.allows(token):
            return token
        return super().choose(self._masked(logits), position, history)

    def distribution(self, logits: Logits, history: Sequence[int]) -> Distribution:
        """Over the allowed tokens alone, for the rejection rule, whose drafts need every token's chance."""
        self._follow(history)
        return super().distribution(self._masked(logits), history)

    def _follow(self, history: Sequence[int]) -> None:
        end = self._start + len(self._matched)
        if list(history[self._start : end]) != self._matched:
            self._grammar.restart()
            self._matched, end = [], self._start
        for token in history[end:]:
            self._grammar.accept(token)
            self._matched.append(token)

    def _masked(self, logits: Logits) -> Logits:
        allowed = self._grammar.allowed()[: len(logits)]
        allowed[self._banned] = False
        if not allowed.any():
            raise SettingsError("the grammar allows no token here, so the answer cannot go on")
        return np.where(allowed, logits, np.float32(-np.inf))


def sampler_for(sampling: Sampling, vocabulary: Vocabulary, start: int) -> Sampler:
    """What chooses the tokens behind a prompt of ``start`` tokens. Raises SettingsError on a wrong
    grammar."""
    if not sampling.grammar:
        return Sampler(sampling)
    return ConstrainedSampler(sampling, Grammar(vocabulary, sampling.grammar), start)
