"""Sample tokens under a grammar.

A token that the grammar forces is taken, whatever its logit. Otherwise a token is chosen first without the
grammar; if the grammar does not allow it, once more with the logits of all disallowed tokens at minus
infinity. With the filters (top-k, top-p, min-p) off, this gives the same token as masking at once. With
filters on, they are applied to the unmasked logits first, and to the masked ones only if the first choice is
not allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pass_edge.native.constraint import Constraint
from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Vocabulary

from .sampler import Distribution, Logits, Sampler, Sampling


class ConstrainedSampler(Sampler):
    """A sampler whose tokens after the prompt, up to an end token, spell a text that matches a grammar.

    A choice is a pure function of (logits, position, history), as without a grammar: the constraint's state
    only caches where ``history`` leads. A list that is given again may have grown at its end, but not have
    changed otherwise: only the new tokens are looked at. Heads draft with ``unconstrained``, which knows no
    grammar; ``allows`` tells which of their drafts can be right, and ``forced`` which tokens are certain.
    """

    def __init__(self, sampling: Sampling, constraint: Constraint, start: int) -> None:
        """``start``: the first tokens of every history, the prompt, which the grammar does not apply to."""
        super().__init__(sampling)
        self._constraint = constraint
        self._start = start
        self._history: Sequence[int] = ()
        self._matched: list[int] = []
        self._drafted: list[int] = []
        self.unconstrained = Sampler(dataclasses.replace(sampling, seed=self.seed))

    @property
    def history_length(self) -> int:
        return -1

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        """Choose as ``Sampler.choose`` does. Raises SettingsError where the grammar and the logit bias allow
        no token."""
        self._advance_to(history)
        forced = self._constraint.forced()
        if forced and forced[0] not in self._banned:
            self.forced_positions.add(position)
            return forced[0]
        token = super().choose(logits, position, history)
        if not forced and self._constraint.count_allowed([token]):
            return token
        return super().choose(self._masked(logits), position, history)

    def distribution(self, logits: Logits, history: Sequence[int]) -> Distribution:
        """Return the distribution over the allowed tokens. The rejection rule needs the probability of
        each."""
        self._advance_to(history)
        return super().distribution(self._masked(logits), history)

    def forced(self, history: Sequence[int], drafted: Sequence[int] = ()) -> list[int]:
        if self._constraint.is_end((drafted or history)[-1]):
            return []
        self._advance_to(history, drafted)
        return self._constraint.forced()

    def allows(self, history: Sequence[int], drafted: Sequence[int], token: int) -> bool:
        if self._constraint.is_end((drafted or history)[-1]):
            return False
        self._advance_to(history, drafted)
        return self._constraint.count_allowed([token]) == 1

    def _advance_to(self, history: Sequence[int], drafted: Sequence[int] = ()) -> None:
        """Bring the constraint to its state after ``history`` and ``drafted``, tokens that are allowed."""
        self._retract_draft(drafted)
        end = self._start + len(self._matched)
        if not self._continues(history, end):
            self._retract_draft(())
            self._constraint.restart()
            self._matched, end = [], self._start
        new = history[end:]
        if new:
            self._retract_draft(())
            self._constraint.accept(new)
            self._matched += new
        if len(drafted) > len(self._drafted):
            self._constraint.accept(drafted[len(self._drafted) :])
            self._drafted = list(drafted)

    def _continues(self, history: Sequence[int], end: int) -> bool:
        """Whether ``history`` begins with the prompt and the matched tokens, up to ``end``."""
        if history is self._history and len(history) >= end:
            return True
        self._history = history
        return list(history[self._start : end]) == self._matched

    def _retract_draft(self, drafted: Sequence[int]) -> None:
        """Take back the drafted tokens that do not begin ``drafted``."""
        pairs = zip(self._drafted, drafted, strict=False)
        common = next((i for i, (old, new) in enumerate(pairs) if old != new), None)
        if common is None:
            common = min(len(self._drafted), len(drafted))
        if common < len(self._drafted):
            self._constraint.retract(self._drafted[common:])
            self._drafted = self._drafted[:common]

    def _masked(self, logits: Logits) -> Logits:
        allowed = self._constraint.allowed()[: len(logits)]
        allowed[self._banned] = False
        if not allowed.any():
            raise SettingsError("the grammar allows no token here, so the answer cannot be continued")
        return np.where(allowed, logits, np.float32(-np.inf))


def sampler_for(sampling: Sampling, vocabulary: Vocabulary, start: int) -> Sampler:
    """Return the sampler for the tokens after a prompt of ``start`` tokens. Raises SettingsError if the
    grammar is wrong, or does not allow its start."""
    if not sampling.grammar:
        return Sampler(sampling)
    constraint = Constraint(vocabulary, sampling.grammar, sampling.grammar_start)
    return ConstrainedSampler(sampling, constraint, start)
