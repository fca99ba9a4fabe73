"""Sample tokens under a grammar.

Tokens are chosen as llama.cpp does it: first without the grammar; if the grammar does not allow that token,
once more with the logits of all disallowed tokens at minus infinity. With the filters (top-k, top-p, min-p)
off, this gives the same token as masking at once. With filters on, they are applied to the unmasked logits
first, and to the masked ones only if the first choice is not allowed.
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
    """A sampler whose tokens after the prompt, up to an end token, spell a text that matches ``grammar``.

    A choice is a pure function of (logits, position, history), as without a grammar: the grammar's state only
    caches where ``history`` leads. Drafts are drawn with ``unconstrained``, so they do not change that state;
    a drafted token that the grammar does not allow is rejected like any wrong draft.
    """

    def __init__(self, sampling: Sampling, grammar: Grammar, n_prompt: int) -> None:
        """``n_prompt``: the first tokens of every history, which the grammar does not apply to."""
        super().__init__(sampling)
        self._grammar = grammar
        self._n_prompt = n_prompt
        self._matched: list[int] = []
        self.unconstrained = Sampler(dataclasses.replace(sampling, seed=self.seed))

    @property
    def history_length(self) -> int:
        return -1

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        """Choose as ``Sampler.choose`` does. Raises SettingsError where the grammar and the logit bias allow
        no token."""
        self._advance_to(history)
        token = super().choose(logits, position, history)
        if self._grammar.allows(token):
            return token
        return super().choose(self._masked(logits), position, history)

    def distribution(self, logits: Logits, history: Sequence[int]) -> Distribution:
        """Return the distribution over the allowed tokens. The rejection rule needs the probability of
        each."""
        self._advance_to(history)
        return super().distribution(self._masked(logits), history)

    def _advance_to(self, history: Sequence[int]) -> None:
        """Bring the grammar to its state after ``history``."""
        end = self._n_prompt + len(self._matched)
        if list(history[self._n_prompt : end]) != self._matched:
            self._grammar.restart()
            self._matched, end = [], self._n_prompt
        for token in history[end:]:
            self._grammar.accept(token)
            self._matched.append(token)

    def _masked(self, logits: Logits) -> Logits:
        allowed = self._grammar.allowed()[: len(logits)]
        allowed[self._banned] = False
        if not allowed.any():
            raise SettingsError("the grammar allows no token here, so the answer cannot be continued")
        return np.where(allowed, logits, np.float32(-np.inf))


def sampler_for(sampling: Sampling, vocabulary: Vocabulary, n_prompt: int) -> Sampler:
    """Return the sampler for the tokens after a prompt of ``n_prompt`` tokens. Raises SettingsError if the
    grammar is wrong."""
    if not sampling.grammar:
        return Sampler(sampling)
    return ConstrainedSampler(sampling, Grammar(vocabulary, sampling.grammar), n_prompt)
