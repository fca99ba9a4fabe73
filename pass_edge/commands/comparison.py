"""Stock llama.cpp, plain decoding and the default schedule on the same prompts: what is gained here.

Each prompt is answered by all of them in turn, and they take turns in going first, so that what else the
machine does hits all alike. Only decoding is timed, not the reading of the prompt.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

from pass_edge.engine import Engine
from pass_edge.native.stock_llama import StockAnswer, StockLlama
from pass_edge.sampling.sampler import Sampling
from pass_edge.stats import Stats

ROWS = (1, 2, 3, 4, 8, 16, 32)
DEPTHS = (0, 250, 1000)


@dataclass(frozen=True)
class Answer:
    """The ``ids`` that an engine gave, and what they cost it."""

    ids: tuple[int, ...]
    stats: Stats


@dataclass(frozen=True)
class Figures:
    """What a prompt, or the median prompt, says. ``ratio`` is auto's speed to plain's, ``stock_ratio`` to
    stock llama.cpp's, None where that was not asked or made a single token. ``tokens_per_pass`` and
    ``accepted_share`` are auto's; the latter is None where nothing was drafted."""

    stock_tokens_per_second: float | None
    plain_tokens_per_second: float
    auto_tokens_per_second: float
    stock_ratio: float | None
    ratio: float
    tokens_per_pass: float
    accepted_share: float | None


@dataclass(frozen=True)
class Pair:
    """Our answers to one prompt, and ``stock``'s, whose text may be another: its kernels round otherwise."""

    plain: Answer
    auto: Answer
    stock: StockAnswer | None = None

    @property
    def same_ids(self) -> bool:
        return self.plain.ids == self.auto.ids

    @property
    def figures(self) -> Figures:
        plain, auto = self.plain.stats, self.auto.stats
        stock = self.stock.tokens_per_second or None if self.stock else None
        return Figures(
            stock,
            plain.tokens_per_second,
            auto.tokens_per_second,
            auto.tokens_per_second / stock if stock else None,
            auto.tokens_per_second / plain.tokens_per_second,
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
    stock: StockLlama | None = None,
    note: Callable[[int], None] = lambda prompts: None,
) -> Iterator[Pair]:
    """All answers to each of ``prompts``, of up to ``max_tokens`` tokens. ``sampling`` needs a seed if it is
    not greedy. ``note`` is told, again and again, how many prompts are done; what it raises ends an answer
    between two steps. Raises SettingsError or ContextFullError, before anything is decoded; LibraryError
    where stock llama.cpp fails."""
    rounds = [
        [engine.stream(ids, sampling=sampling, max_tokens=max_tokens) for engine in (plain, auto)]
        for ids in prompts
    ]
    for number, (ids, generations) in enumerate(zip(prompts, rounds, strict=True)):
        note(number)
        theirs = None
        if stock and number % 2 == 0:
            theirs = _ask(stock, ids, sampling, max_tokens)
        for generation in generations if number % 2 == 0 else generations[::-1]:
            note(number)
            for _ in generation:
                note(number)
        if stock and number % 2 == 1:
            theirs = _ask(stock, ids, sampling, max_tokens)
        plainly, drafting = (Answer(tuple(generation.ids), generation.stats) for generation in generations)
        yield Pair(plainly, drafting, theirs)


def _ask(stock: StockLlama, ids: Sequence[int], sampling: Sampling, max_tokens: int) -> StockAnswer:
    return stock.answer(
        ids,
        max_tokens=max_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
