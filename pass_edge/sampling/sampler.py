"""From logits to a token: llama.cpp's usual filters, in its order, with position-keyed randomness.

Order: logit bias, penalties, top-k, top-p, min-p, temperature (llama.cpp's default sampler chain).
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pass_edge.native.errors import SettingsError

from .noise import TARGET, Doubles, Int64s, gumbel

Logits = npt.NDArray[np.float32]
_BLOCK = 64
_LARGEST_BIAS = 1e30  # beyond, float32 has only infinity, and infinities have no difference


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Names, meanings and defaults are llama.cpp's.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 switch a filter off.
    ``repeat_last_n`` tokens count for the penalties (-1: all). ``logit_bias`` maps token ids to
    what is added to their logits (-inf bans). ``seed`` None draws one. ``grammar``: GBNF that the text must
    match from its first token on; empty is none. Raises SettingsError.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    grammar: str = ""

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _require(self.top_k >= 0, "top-k", self.top_k, "0 or more")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p < 1, "min-p", self.min_p, "at least 0 and below 1")
        _require(self.repeat_penalty > 0, "repeat-penalty", self.repeat_penalty, "above 0")
        _require(self.repeat_last_n >= -1, "repeat-last-n", self.repeat_last_n, "-1 or more")
        for name in ("presence_penalty", "frequency_penalty"):
            _require(True, name.replace("_", "-"), getattr(self, name), "a number")
        for token, bias in self.logit_bias.items():
            if not bias <= _LARGEST_BIAS:
                raise SettingsError(
                    f"the logit bias of token {token} is {bias}; it must be a number, or -inf"
                )


def _require(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds or not math.isfinite(value):
        raise SettingsError(f"{name} is {value}; it must be {allowed}")


@dataclass(frozen=True)
class Distribution:
    """Probabilities of the tokens that are left: ``tokens`` (n,) int64, ascending; ``probabilities``
    (n,) float64, summing to 1."""

    tokens: Int64s
    probabilities: Doubles

    def of(self, tokens: Int64s) -> Doubles:
        """The probability of each of ``tokens``, (m,) float64; 0 for those filtered out."""
        places = np.searchsorted(self.tokens, tokens).clip(max=len(self.tokens) - 1)
        return np.where(self.tokens[places] == tokens, self.probabilities[places], 0.0)

    def draw(self, seed: int, position: int, stream: int) -> int:
        """One token, by the Gumbel-max rule under the noise of (seed, position, stream)."""
        with np.errstate(divide="ignore"):
            scores = np.log(self.probabilities) + gumbel(seed, position, stream, self.tokens)
        return int(self.tokens[scores.argmax()])

    def without(self, token: int) -> Distribution | None:
        """What is left, renormalised, once ``token`` is ruled out; None if nothing is."""
        kept = self.tokens != token
        return _normalised(self.tokens[kept], self.probabilities[kept])

    def minus(self, other: Distribution) -> Distribution | None:
        """The normalised positive part of (self - other); None where that is nothing."""
        return _normalised(self.tokens, np.maximum(self.probabilities - other.of(self.tokens), 0.0))


def _normalised(tokens: Int64s, weights: Doubles) -> Distribution | None:
    total = weights.sum()
    return Distribution(tokens, weights / total) if total > 0 else None


class Sampler:
    """Chooses tokens for one generation; its state is only its settings and its seed.

    Attributes: ``sampling``; ``seed``; ``free``: what drafts are made with, which is itself unless a grammar
    constrains it.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.free: Sampler = self
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._bias_tokens = np.array(list(sampling.logit_bias), np.int64)
        self._biases = np.array(list(sampling.logit_bias.values()), np.float32)
        self._banned = self._bias_tokens[np.isneginf(self._biases)]
        self._penalises = bool(
            sampling.repeat_last_n
            and (sampling.repeat_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty)
        )

    @property
    def adjusts(self) -> bool:
        """Whether a token's logit depends on which one it is."""
        return bool(self._penalises or len(self._bias_tokens))

    @property
    def history_length(self) -> int:
        """How many of the last tokens a choice depends on; -1 means all, 0 none."""
        return self.sampling.repeat_last_n if self._penalises else 0

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        """The token at ``position`` given ``logits`` (n_vocab,) float32 and the tokens before it."""
        logits = self._adjusted(logits, history)
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        tokens, scores = self._filtered(logits)
        return int(tokens[(scores + gumbel(self.seed, position, TARGET, tokens)).argmax()])

    def forced(self, history: Sequence[int], drafted: Sequence[int] = ()) -> list[int]:
        """Return the tokens after ``history`` and ``drafted`` that are certain, whatever the logits."""
        return []

    def count_allowed(self, history: Sequence[int], drafted: Sequence[int]) -> int:
        """Return how many of ``drafted``, from the first on, may follow ``history``."""
        return len(drafted)

    def ranked(
        self,
        logits: Logits,
        position: int,
        history: Sequence[int],
        count: int,
        *,
        among: Int64s | None = None,
    ) -> list[int]:
        """The places in ``logits`` of what ``choose`` would choose, and of the next best that the filters
        leave: up to ``count``. ``among``: the tokens they are of, if not all; not where it ``adjusts``."""
        logits = self._adjusted(logits, history)
        if self.sampling.temperature == 0:
            return _largest(logits, count)
        places, scores = self._filtered(logits)
        tokens = places if among is None else among[places]
        order = np.argsort(-(scores + gumbel(self.seed, position, TARGET, tokens)), kind="stable")
        return places[order[:count]].tolist()

    def distribution(self, logits: Logits, history: Sequence[int]) -> Distribution:
        """The distribution that ``choose`` draws from."""
        logits = self._adjusted(logits, history)
        if self.sampling.temperature == 0:
            return Distribution(np.array([logits.argmax()], np.int64), np.ones(1))
        tokens, scores = self._filtered(logits)
        weights = np.exp(scores - scores.max())
        order = tokens.argsort()
        return Distribution(tokens[order], weights[order] / weights.sum())

    def _adjusted(self, logits: Logits, history: Sequence[int]) -> Logits:
        if not self.adjusts:
            return logits
        logits = logits.copy()
        logits[self._bias_tokens] += self._biases
        if self._penalises and history:
            self._penalise(logits, history)
        return logits

    def _penalise(self, logits: Logits, history: Sequence[int]) -> None:
        last_n, sampling = self.sampling.repeat_last_n, self.sampling
        counts = Counter(history if last_n < 0 else history[-last_n:])
        tokens = np.fromiter(counts, np.int64, len(counts))
        times = np.fromiter(counts.values(), np.float32, len(counts))
        seen = logits[tokens]
        seen = np.where(seen <= 0, seen * sampling.repeat_penalty, seen / sampling.repeat_penalty)
        logits[tokens] = seen - times * sampling.frequency_penalty - sampling.presence_penalty

    def _filtered(self, logits: Logits) -> tuple[Int64s, Doubles]:
        # the tokens that are left, and their logits divided by the temperature
        sampling = self.sampling
        if sampling.top_k:
            tokens = best(logits, sampling.top_k)
            if sampling.top_p < 1:
                tokens = tokens[: _enough(logits[tokens], sampling.top_p)]
        else:
            tokens = _nucleus(logits, sampling.top_p) if sampling.top_p < 1 else np.arange(len(logits))
        scores = logits[tokens].astype(np.float64)
        if sampling.min_p > 0:
            kept = scores >= scores.max() + math.log(sampling.min_p)
            tokens, scores = tokens[kept], scores[kept]
        return tokens, scores / sampling.temperature


def _largest(logits: Logits, count: int) -> list[int]:
    """The places of the ``count`` largest, ties by place; for few of them."""
    found: list[int] = []
    left = logits if count == 1 else logits.copy()
    for _ in range(min(count, len(logits))):
        found.append(int(left.argmax()))
        if len(found) < count:
            left[found[-1]] = -np.inf
    return found


def best(logits: Logits, count: int) -> Int64s:
    """The ``count`` tokens of highest logit, best first, ties by token id."""
    groups_of = min(_BLOCK, len(logits) // (4 * count))
    if groups_of > 1:
        # The count-th best of the maxima of disjoint groups bounds the count-th best logit from below:
        # one cheap pass leaves a few dozen tokens to sort. Groups of every n-th token reduce faster
        # than groups of neighbours.
        whole = len(logits) // groups_of * groups_of
        maxima = logits[:whole].reshape(groups_of, -1).max(axis=0)
        floor = np.partition(maxima, -count)[-count]
        tokens = np.flatnonzero(logits >= floor)
    else:
        tokens = np.arange(len(logits))
    return tokens[np.argsort(-logits[tokens], kind="stable")[:count]]


def _enough(logits: Logits, top_p: float, whole: float = 0.0) -> int:
    """How many of ``logits``, the best first, hold ``top_p`` of the probability of all of them, or of
    ``whole`` where these are not all: the sum of exp(logit - best logit)."""
    reached = np.exp(logits.astype(np.float64) - float(logits[0])).cumsum()
    return int(np.searchsorted(reached, top_p * (whole or reached[-1]))) + 1


def _nucleus(logits: Logits, top_p: float) -> Int64s:
    """The smallest set of best tokens that holds ``top_p`` of the probability, best first."""
    whole = float(np.exp(logits.astype(np.float64) - float(logits.max())).sum())
    count = 256  # a full sort costs milliseconds at 100k tokens, and few tokens usually do
    while True:
        order = best(logits, count)
        enough = _enough(logits[order], top_p, whole)
        if enough <= len(order) or count >= len(logits):
            return order[:enough]
        count *= 8
