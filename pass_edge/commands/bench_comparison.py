"""Compare the speed of stock llama.cpp, plain decoding and the default schedule on the same prompts.

All three answer each prompt, and take turns in going first, so that other work on the machine affects all
alike. Only decoding is timed, not the processing of the prompt.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

from pass_edge.engine import Engine
from pass_edge.generation import Generation
from pass_edge.native.stock_llama import StockAnswer, StockLlama
from pass_edge.sampling.sampler import Sampling
from pass_edge.stats import Stats

ROWS = (1, 2, 3, 4, 8, 16, 32)
DEPTHS = (0, 250, 1000)


@dataclass(frozen=True)
class Answer:
    """The generated ``ids`` of one engine, and its statistics."""

    ids: tuple[int, ...]
    stats: Stats


@dataclass(frozen=True)
class Figures:
    """The figures of one prompt, or the medians of all.

    ``ratio``: auto's speed divided by plain's; ``stock_ratio``: by stock llama.cpp's, None if that did not
    run or generated a single token. ``tokens_per_pass`` and ``accepted_share`` are auto's; the share is
    None if nothing was drafted.
    """

    stock_tokens_per_second: float | None
    plain_tokens_per_second: float
    auto_tokens_per_second: float
    stock_ratio: float | None
    ratio: float
    tokens_per_pass: float
    accepted_share: float | None


@dataclass(frozen=True)
class Pair:
    """The answers to one prompt. Stock llama.cpp's text may differ: its kernels round differently."""

    plain: Answer
    auto: Answer
    stock: StockAnswer | None = None

    @property
    def same_ids(self) -> bool:
        """Whether plain and auto generated the same tokens."""
        return self.plain.ids == self.auto.ids

    @property
    def figures(self) -> Figures:
        """The figures of this prompt."""
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
class TimeShares:
    """Where the time of the steps goes: llama.cpp; planning and drafting; the rest, which is verifying,
    committing and detokenizing."""

    llama_cpp: float
    drafting: float
    rest: float

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> TimeShares:
        """Return the shares over all ``answers``."""
        times = [(a.stats.seconds, a.stats.model_seconds, a.stats.drafting_seconds) for a in answers]
        total, model, drafting = map(sum, zip(*times, strict=True))
        return cls(model / total, drafting / total, (total - model - drafting) / total)


@dataclass(frozen=True)
class CostCurve:
    """The cost of a pass: ``milliseconds[i][k]`` for ``rows[k]`` rows after ``depths[i]`` tokens."""

    rows: tuple[int, ...]
    depths: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, engine: Engine) -> CostCurve | None:
        """Return the engine's estimate, up to its widest pass and context size; None if it decodes plainly.

        Decoding corrects the estimate, so it is the measured curve only before that.
        """
        if engine.costs is None:
            return None
        rows = tuple(n for n in ROWS if n <= engine.costs.widest)
        depths = tuple(depth for depth in DEPTHS if depth < engine.context_size)
        seconds = [engine.costs.at(depth) for depth in depths]
        return cls(rows, depths, tuple(tuple(float(1000 * at[n - 1]) for n in rows) for at in seconds))


@dataclass(frozen=True)
class Comparison:
    """The measurements of all prompts, of which there is at least one."""

    pairs: tuple[Pair, ...]
    curve: CostCurve | None

    @property
    def medians(self) -> Figures:
        """The median of each figure."""
        columns = zip(*(astuple(pair.figures) for pair in self.pairs), strict=True)
        return Figures(*map(_median, columns))  # type: ignore[arg-type] # None if all are

    @property
    def different(self) -> list[int]:
        """The numbers of the prompts whose ids differ, from 1."""
        return [number for number, pair in enumerate(self.pairs, 1) if not pair.same_ids]

    @property
    def time(self) -> dict[str, TimeShares]:
        """Where the time goes, by schedule."""
        return {
            "plain": TimeShares.of(pair.plain for pair in self.pairs),
            "auto": TimeShares.of(pair.auto for pair in self.pairs),
        }


def compare(
    plain: Engine,
    auto: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    max_tokens: int,
    stock: StockLlama | None = None,
    note: Callable[[int], None] = lambda done: None,
) -> Iterator[Pair]:
    """Yield the answers to each of ``prompts``, of up to ``max_tokens`` tokens.

    ``sampling`` needs a seed unless it is greedy. ``note`` is called between steps with the number of prompts
    that are done; an exception that it raises ends the comparison. Raises SettingsError or ContextFullError
    before anything is decoded, and LibraryError if stock llama.cpp fails.
    """
    rounds = [
        [engine.stream(ids, sampling=sampling, max_tokens=max_tokens) for engine in (plain, auto)]
        for ids in prompts
    ]
    for number, (ids, generations) in enumerate(zip(prompts, rounds, strict=True)):
        stock_answer = None
        contenders = [*([stock] if stock else ()), *generations]
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            note(number)
            if isinstance(contender, Generation):
                for _ in contender:
                    note(number)
            else:
                stock_answer = _ask(contender, ids, sampling, max_tokens)
        plain_answer, auto_answer = (Answer(tuple(each.ids), each.stats) for each in generations)
        yield Pair(plain_answer, auto_answer, stock_answer)


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
