"""Sample a token from logits, with llama.cpp's usual filters and random numbers keyed by position.

The order is that of llama.cpp's default sampler chain: logit bias, penalties, top-k, top-p, min-p,
temperature.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pass_edge.native.errors import ContextError, SettingsError

from .noise import TARGET, Doubles, Int64s, gumbel

Logits = npt.NDArray[np.float32]
_MAX_GROUP = 64
_MAX_BIAS = 1e30  # above, sums may be infinite in float32, and the difference of infinities is not a number


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Names, meanings and defaults are llama.cpp's. Raises SettingsError on values out
    of range.

    ``temperature``: 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 switch the filter off.
    ``repeat_last_n``: how many of the last tokens the penalties look at; -1 is all. ``logit_bias``: by token
    id, added to the logit; -inf bans the token. ``seed``: None draws one. ``grammar``: what the
    text must match from its first token on, in a notation of native/constraint.py (GBNF, Lark, JSON schema);
    empty is none. ``grammar_start``: the beginning of what the grammar describes, if the prompt ends with it.
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
    grammar_start: str = ""

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
            if not bias <= _MAX_BIAS:
                raise SettingsError(
                    f"the logit bias of token {token} is {bias}; "
                    f"it must be a number up to {_MAX_BIAS:g}, or -inf"
                )


def _require(is_allowed: bool, name: str, value: float, allowed: str) -> None:
    if not is_allowed or not math.isfinite(value):
        raise SettingsError(f"{name} is {value}; it must be {allowed}")


@dataclass(frozen=True)
class Distribution:
    """A distribution over the tokens that the filters leave: ``tokens``, (n,) int64, ascending;
    ``probabilities``, (n,) float64, summing to 1."""

    tokens: Int64s
    probabilities: Doubles

    def of(self, tokens: Int64s) -> Doubles:
        """Return the probability of each of ``tokens``, (m,) float64; 0 for tokens that are filtered out."""
        places = np.searchsorted(self.tokens, tokens).clip(max=len(self.tokens) - 1)
        return np.where(self.tokens[places] == tokens, self.probabilities[places], 0.0)

    def draw(self, seed: int, position: int, stream: int) -> int:
        """Draw one token with the Gumbel-max trick, under the noise of (seed, position, stream)."""
        with np.errstate(divide="ignore"):
            scores = np.log(self.probabilities) + gumbel(seed, position, stream, self.tokens)
        return int(self.tokens[scores.argmax()])

    def without(self, token: int) -> Distribution | None:
        """Return the distribution without ``token``, renormalised; None if no token is left."""
        kept = self.tokens != token
        return _normalised(self.tokens[kept], self.probabilities[kept])

    def minus(self, other: Distribution) -> Distribution | None:
        """Return the normalised positive part of (self - other); None if it is zero everywhere."""
        return _normalised(self.tokens, np.maximum(self.probabilities - other.of(self.tokens), 0.0))


def _normalised(tokens: Int64s, weights: Doubles) -> Distribution | None:
    total = weights.sum()
    return Distribution(tokens, weights / total) if total > 0 else None


class Sampler:
    """Chooses tokens for one generation. Its state is only its settings and its seed.

    Attributes: ``sampling``; ``seed``; ``unconstrained``, the sampler that drafts are drawn with: this one,
    or one without its grammar; ``forced_positions``, where a grammar left ``choose`` no choice; ``drafts``,
    whether tokens may be drafted that it is to choose.
    """

    drafts = True

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.unconstrained: Sampler = self
        self.forced_positions: set[int] = set()
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._bias_tokens = np.array(list(sampling.logit_bias), np.int64)
        self._biases = np.array(list(sampling.logit_bias.values()), np.float32)
        self._banned = self._bias_tokens[np.isneginf(self._biases)]
        self._penalises = bool(
            sampling.repeat_last_n
            and (sampling.repeat_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty)
        )

    @property
    def adjusts_logits(self) -> bool:
        """Whether a logit bias or a penalty changes logits, so that they must be those of all tokens."""
        return bool(self._penalises or len(self._bias_tokens))

    @property
    def history_length(self) -> int:
        """How many of the last tokens a choice depends on; -1 means all, 0 none."""
        return self.sampling.repeat_last_n if self._penalises else 0

    def choose(self, logits: Logits, position: int, history: Sequence[int]) -> int:
        """Return the token at ``position``, chosen from ``logits``, (n_vocab,) float32. ``history``: the
        tokens before it, at least the last ``history_length``. Raises ContextError if ``logits`` are not
        numbers."""
        logits = self._adjusted(logits, history)
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        tokens, scores = self._filtered(logits)
        return int(tokens[(scores + gumbel(self.seed, position, TARGET, tokens)).argmax()])

    def forced(self, history: Sequence[int], drafted: Sequence[int] = ()) -> list[int]:
        """Return the tokens after ``history`` and ``drafted`` that are certain, whatever the logits."""
        return []

    def allows(self, history: Sequence[int], drafted: Sequence[int], token: int) -> bool:
        """Return whether ``token`` can be chosen after ``history`` and ``drafted``, which must be allowed."""
        return True

    def ranked(
        self,
        logits: Logits,
        position: int,
        history: Sequence[int],
        count: int,
        *,
        tokens: Int64s | None = None,
    ) -> list[int]:
        """Return the indices in ``logits`` of the token that ``choose`` would choose and of the next best
        tokens that the filters leave, up to ``count`` in all. ``tokens``: the tokens of the logits, if these
        are not of the whole vocabulary; not allowed where the sampler ``adjusts_logits``."""
        logits = self._adjusted(logits, history)
        if self.sampling.temperature == 0:
            return _largest(logits, count)
        indices, scores = self._filtered(logits)
        noise = gumbel(self.seed, position, TARGET, indices if tokens is None else tokens[indices])
        order = np.argsort(-(scores + noise), kind="stable")
        return indices[order[:count]].tolist()

    def distribution(self, logits: Logits, history: Sequence[int]) -> Distribution:
        """Return the distribution that ``choose`` draws from."""
        logits = self._adjusted(logits, history)
        if self.sampling.temperature == 0:
            return Distribution(np.array([logits.argmax()], np.int64), np.ones(1))
        tokens, scores = self._filtered(logits)
        weights = np.exp(scores)
        order = tokens.argsort()
        return Distribution(tokens[order], weights[order] / weights.sum())

    def _adjusted(self, logits: Logits, history: Sequence[int]) -> Logits:
        if math.isnan(logits[0]):  # one number of the last state that is none spoils the logits of all tokens
            raise ContextError("the model's logits are not numbers: its file is damaged or a kernel wrong")
        if not self.adjusts_logits:
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
        occurrences = np.fromiter(counts.values(), np.float32, len(counts))
        old = logits[tokens]
        new = np.where(old <= 0, old * sampling.repeat_penalty, old / sampling.repeat_penalty)
        logits[tokens] = new - occurrences * sampling.frequency_penalty - sampling.presence_penalty

    def _filtered(self, logits: Logits) -> tuple[Int64s, Doubles]:
        """Return the tokens that the filters leave, and how far their logits are below the best one, divided
        by the temperature."""
        sampling = self.sampling
        if sampling.top_k:
            tokens = top_tokens(logits, sampling.top_k)
            if sampling.top_p < 1:
                tokens = tokens[: _nucleus_size(logits[tokens], sampling.top_p)]
        else:
            tokens = _nucleus(logits, sampling.top_p) if sampling.top_p < 1 else np.arange(len(logits))
        scores = logits[tokens].astype(np.float64)
        if sampling.min_p > 0:
            kept = scores >= scores.max() + math.log(sampling.min_p)
            tokens, scores = tokens[kept], scores[kept]
        with np.errstate(over="ignore", invalid="ignore"):  # a temperature may be as small as floats can be
            return tokens, (scores - scores.max()) / sampling.temperature


def _largest(logits: Logits, count: int) -> list[int]:
    """Return the indices of the ``count`` largest logits, ties by index. Fast for a small ``count``."""
    largest: list[int] = []
    remaining = logits if count == 1 else logits.copy()
    for _ in range(min(count, len(logits))):
        largest.append(int(remaining.argmax()))
        if len(largest) < count:
            remaining[largest[-1]] = -np.inf
    return largest


def top_tokens(logits: Logits, count: int) -> Int64s:
    """Return the ``count`` tokens of highest logit, best first, ties by token id; (count,) int64."""
    group_size = min(_MAX_GROUP, len(logits) // (4 * count))
    if group_size > 1:
        # The count-th best of the maxima of disjoint groups is a lower bound of the count-th best logit. So
        # one cheap pass leaves a few dozen tokens to sort. Groups of every n-th token reduce faster than
        # groups of neighbours.
        end = len(logits) // group_size * group_size
        maxima = logits[:end].reshape(group_size, -1).max(axis=0)
        lower_bound = np.partition(maxima, -count)[-count]
        tokens = np.flatnonzero(logits >= lower_bound)
    else:
        tokens = np.arange(len(logits))
    return tokens[np.argsort(-logits[tokens], kind="stable")[:count]]


def _nucleus_size(logits: Logits, top_p: float, total: float = 0.0) -> int:
    """Return how many of ``logits``, the best first, have ``top_p`` of the probability mass. ``total``: the
    sum of exp(logit - best logit) over the vocabulary, if ``logits`` are not all of it."""
    mass = np.exp(logits.astype(np.float64) - float(logits[0])).cumsum()
    return int(np.searchsorted(mass, top_p * (total or mass[-1]))) + 1


def _nucleus(logits: Logits, top_p: float) -> Int64s:
    """Return the smallest set of best tokens that has ``top_p`` of the probability mass, best first."""
    total = float(np.exp(logits.astype(np.float64) - float(logits.max())).sum())
    count = 256  # sorting 100,000 tokens takes milliseconds, and a few tokens usually suffice
    while True:
        tokens = top_tokens(logits, count)
        size = _nucleus_size(logits[tokens], top_p, total)
        if size <= len(tokens) or count >= len(logits):
            return tokens[:size]
        count *= 8
