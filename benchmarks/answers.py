"""Shared by the speed benchmarks: questions, contenders, their answers, and Markdown tables.

A *contender* answers a prompt of token ids and reports its speed. Only decoding is timed: a rate is the
tokens generated after the first one, over the time of the passes after the prompt.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pass_edge import Engine, Sampling
from pass_edge.native.llama_build.machine import parse_cpuinfo
from pass_edge.native.stock_llama import StockLlama

PROMPTS = Path(__file__).parent / "prompts" / "spec_bench_dev.jsonl"
CONTEXT = 4096


@dataclass(frozen=True)
class Job:
    """The settings that all contenders share. ``server_cache``: types of K and V for llama.cpp's server, None
    for its defaults. With our engine's types, more greedy texts are equal."""

    model: Path
    tokens: int
    threads: int
    temperature: float
    server_cache: tuple[str, str] | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, seed=1)


@dataclass(frozen=True)
class Answer:
    """A timed answer. ``tokens``: generated, the end token included. ``host_share``: part of the time spent
    outside llama.cpp. ``tokens_per_pass``, ``host_share``: None if unknown. ``acceptance``: of drafts, by
    depth."""

    tokens_per_second: float
    tokens: int
    prompt_tokens: int
    text: str
    tokens_per_pass: float | None = 1.0
    host_share: float | None = None
    acceptance: tuple[float, ...] = ()


Contender = Callable[[list[int]], Answer]


def questions_by_category(count: int) -> dict[str, list[str]]:
    """Return the first ``count`` questions of each category of the dev prompts; all if ``count`` is 0."""
    questions: dict[str, list[str]] = defaultdict(list)
    for line in PROMPTS.read_text().splitlines():
        question = json.loads(line)
        if not count or len(questions[question["category"]]) < count:
            questions[question["category"]].append(question["turns"][0])
    return questions


def code_questions(count: int) -> list[str]:
    """Return the first ``count`` code questions."""
    lines = (PROMPTS.parent / "code_dev.jsonl").read_text().splitlines()[:count]
    return [json.loads(line)["turns"][0] for line in lines]


def rotated(names: list[str], turn: int) -> list[str]:
    """Return ``names`` in the order of this turn, so that each name goes first equally often."""
    first = turn % len(names)
    return names[first:] + names[:first]


def engine_contender(engine: Engine, job: Job) -> Contender:
    """Return our engine as a contender."""

    def answer(ids: list[int]) -> Answer:
        generation = engine.stream(ids, sampling=job.sampling, max_tokens=job.tokens).run()
        stats = generation.stats
        return Answer(
            stats.tokens_per_second,
            stats.tokens,
            stats.prompt_tokens,
            generation.text,
            stats.tokens_per_pass,
            1 - stats.model_seconds / stats.seconds,
            tuple(stats.acceptance),
        )

    return answer


def stock_contender(job: Job, lookup: int = 0) -> Contender:
    """Return stock llama-cpp-python, in a process of its own. ``lookup``: tokens that its prompt lookup
    drafts."""
    sampling = job.sampling
    stock = StockLlama(
        job.model, threads=job.threads, context_size=CONTEXT, lookup=lookup, seed=sampling.seed
    )

    def answer(ids: list[int]) -> Answer:
        reply = stock.answer(
            ids,
            max_tokens=job.tokens + 1,  # the first token belongs to the prompt
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        text = stock.detokenize(reply.ids[: job.tokens])
        tokens_per_pass = None if lookup else 1.0
        return Answer(reply.tokens_per_second, len(reply.ids), len(ids), text, tokens_per_pass)

    return answer


def cpu_name() -> str:
    """Return the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    name, _ = parse_cpuinfo(info.read_text() if info.exists() else "")
    return name or platform.processor() or platform.machine()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table. All columns but the first are numbers."""
    return "\n".join(map(table_row, [head, ["---", *["---:"] * (len(head) - 1)], *rows]))


def table_row(cells: list[str]) -> str:
    """Return one row of a table, for benchmarks that print rows as they come."""
    return f"| {' | '.join(cells)} |"
