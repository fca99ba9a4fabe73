"""Plain decoding against the default schedule on the same prompts: what drafting gains on this machine.

Each prompt is answered by both engines in turn, and they take turns in going first, so that what else the
machine does hits both alike. Only decoding is timed, not the reading of the prompt.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

from .engine import Engine
from .sampling import Sampling
from .stats import Stats

ROWS = (1, 2, 3, 4, 8, 16, 32)
DEPTHS = (0, 250, 1000)


@dataclass(frozen=True)
class Answer:
    """The ``ids`` that an engine gave, and what they cost it."""

    ids: tuple[int, ...]
    stats: Stats


@dataclass(frozen=True)
class Figures:
    """What a prompt, or the median prompt, says. ``tokens_per_pass`` and ``accepted_share`` are auto's; the
    latter is None where nothing was drafted."""

    plain_tokens_per_second: float
    auto_tokens_per_second: float
    ratio: float
    tokens_per_pass: float
    accepted_share: float | None


@dataclass(frozen=True)
class Pair:
    """Both answers to one prompt."""

    plain: Answer
    auto: Answer

    @property
    def same_ids(self) -> bool:
        return self.plain.ids == self.auto.ids

    @property
    def figures(self) -> Figures:
        plain, auto = self.plain.stats, self.auto.stats
        ratio = auto.tokens_per_second / plain.tokens_per_second
        return Figures(
            plain.tokens_per_second,
            auto.tokens_per_second,
            ratio,
            auto.tokens_per_pass,
            auto.accepted_share,
        )


@dataclass(frozen=True)
class Shares:
    """Of the time that steps took: in llama.cpp; in planning and drafting; and in all else, which is
    verifying, committing and making text."""

    llama_cpp: float
    drafting: float
    rest: float

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> Shares:
        times = [(a.stats.seconds, a.stats.model_seconds, a.stats.drafting_seconds) for a in answers]
        whole, model, drafting = map(sum, zip(*times, strict=True))
        return cls(model / whole, drafting / whole, (whole - model - drafting) / whole)


@dataclass(frozen=True)
class Curve:
    """What a pass costs: ``milliseconds[i][k]`` for ``rows[k]`` rows behind ``depths[i]`` tokens."""

    rows: tuple[int, ...]
    depths: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, engine: Engine) -> Curve | None:
        """As far as the engine's passes and its context go; None if it decodes plainly. What it decodes
        corrects what was measured, so this is the measured curve only before that."""
        if engine.costs is None:
            return None
        rows = tuple(n for n in ROWS if n <= engine.costs.widest)
        depths = tuple(depth for depth in DEPTHS if depth < engine.context_size)
        seconds = [engine.costs.at(depth) for depth in depths]
        return cls(rows, depths, tuple(tuple(float(1000 * of[n - 1]) for n in rows) for of in seconds))


@dataclass(frozen=True)
class Comparison:
    """All of it; there is at least one pair."""

    pairs: tuple[Pair, ...]
    curve: Curve | None

    @property
    def medians(self) -> Figures:
        """Each figure's own median."""
        columns = zip(*(astuple(pair.figures) for pair in self.pairs), strict=True)
        return Figures(*map(_median, columns))  # type: ignore[arg-type] # None where all of them are

    @property
    def different(self) -> list[int]:
        """The pairs whose ids are not the same, counted from 1."""
        return [number for number, pair in enumerate(self.pairs, 1) if not pair.same_ids]

    @property
    def time(self) -> dict[str, Shares]:
        """By the schedule."""
        return {
            "plain": Shares.of(pair.plain for pair in self.pairs),
            "auto": Shares.of(pair.auto for pair in self.pairs),
        }


def compare(
    plain: Engine,
    auto: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    max_tokens: int,
    note: Callable[[int], None] = lambda answers: None,
) -> Iterator[Pair]:
    """Both answers to each of ``prompts``, of up to ``max_tokens`` tokens. ``sampling`` needs a seed if it is
    not greedy. ``note`` is told, again and again, how many answers there are; what it raises ends an answer
    between two steps. Raises SettingsError or ContextFullError, before anything is decoded."""
    rounds = [
        [engine.stream(ids, sampling=sampling, max_tokens=max_tokens) for engine in (plain, auto)]
        for ids in prompts
    ]
    for number, generations in enumerate(rounds):
        for turn, generation in enumerate(generations if number % 2 == 0 else generations[::-1]):
            note(2 * number + turn)
            for _ in generation:
                note(2 * number + turn)
        yield Pair(*(Answer(tuple(generation.ids), generation.stats) for generation in generations))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
