"""The schedules against each other and against llama-cpp-python's own `Llama`, interleaved.

    python benchmarks/schedules.py --questions 1 --tokens 128 --markdown docs/benchmarks.md

Each question is answered by every contender in turn before the next question, so that what else the
machine does hits all alike; reported are medians of per-question ratios to our own plain schedule.
Greedy, so that all decode the same text. Only decoding is timed, not the prompt.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from llama_cpp import Llama
from rich.progress import track

from pass_edge import Engine, Sampling, Settings
from pass_edge.models import default_model
from pass_edge.native.devices import default_threads

PROMPTS = Path(__file__).parent / "prompts" / "spec_bench_dev.jsonl"
GREEDY = Sampling(temperature=0)
LLAMA, PLAIN = "llama_cpp.Llama", "plain"
DRAFTING = ("head", "two-pass", "fused")
CONTEXT = 4096


@dataclass(frozen=True)
class Answer:
    """One timed answer. ``host_share``: part of the time spent outside llama.cpp; None if unknown."""

    tokens_per_second: float
    tokens_per_pass: float = 1.0
    host_share: float | None = None
    acceptance: tuple[float, ...] = ()


def questions_by_category(count: int) -> dict[str, list[str]]:
    """The first ``count`` questions of each category of the dev prompts."""
    chosen: dict[str, list[str]] = defaultdict(list)
    for line in PROMPTS.read_text().splitlines():
        question = json.loads(line)
        if len(chosen[question["category"]]) < count:
            chosen[question["category"]].append(question["turns"][0])
    return chosen


def ours(engine: Engine, tokens: int, sampling: Sampling) -> Callable[[list[int]], Answer]:
    def answer(ids: list[int]) -> Answer:
        stats = engine.stream(ids, sampling=sampling, max_tokens=tokens).run().stats
        share = 1 - stats.model_seconds / stats.seconds
        return Answer(stats.tokens_per_second, stats.tokens_per_pass, share, tuple(stats.acceptance))

    return answer


def llama(model: Path, tokens: int, threads: int, temperature: float) -> Callable[[list[int]], Answer]:
    peer = Llama(str(model), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)

    def answer(ids: list[int]) -> Answer:
        count, began = 0, 0.0
        for token in peer.generate(ids, temp=temperature, reset=True):
            if not count:
                began = time.perf_counter()  # the first token belongs to the prompt
            count += 1
            if count > tokens or token == peer.token_eos():
                break
        return Answer((count - 1) / (time.perf_counter() - began))

    return answer


def table(results: dict[str, dict[str, list[Answer]]], names: list[str]) -> str:
    lines = [
        "| category | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    pooled: dict[str, list[float]] = defaultdict(list)
    for category, answers in results.items():
        cells = []
        for name in names:
            ratios = [
                mine.tokens_per_second / plain.tokens_per_second
                for mine, plain in zip(answers[name], answers[PLAIN], strict=True)
            ]
            pooled[name] += ratios
            cells.append(f"{statistics.median(ratios):.2f}")
        lines.append(f"| {category} | " + " | ".join(cells) + " |")
    medians = [f"**{statistics.median(pooled[name]):.2f}**" for name in names]
    lines.append("| **median ratio to plain** | " + " | ".join(medians) + " |")
    quartiles = [" … ".join(f"{q:.2f}" for q in statistics.quantiles(pooled[n])[::2]) for n in names]
    lines.append("| quartiles | " + " | ".join(quartiles) + " |")
    for title, get, form in (
        ("median tokens/s", lambda a: a.tokens_per_second, "{:.1f}"),
        ("mean tokens/pass", lambda a: a.tokens_per_pass, "{:.2f}"),
        ("median share of time outside llama.cpp", lambda a: a.host_share, "{:.1%}"),
    ):
        cells = []
        for name in names:
            values = [v for answers in results.values() for a in answers[name] if (v := get(a)) is not None]
            middle = statistics.mean if "mean" in title else statistics.median
            cells.append(form.format(middle(values)) if values else "–")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def heading(model: Path, temp: float, tokens: int, draft_max: int, threads: int, questions: int) -> str:
    return (
        f"### {model.name}, temperature {temp:g}, draft-max {draft_max}\n\n"
        f"{cpu_name()}, {threads} threads; {questions} questions, {tokens} tokens each; ratios of tokens/s "
        "to our plain schedule, medians of one interleaved run."
    )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@click.command(help=__doc__)
@click.option("--model", type=click.Path(path_type=Path), help="A GGUF file; the default model if not given.")
@click.option("--questions", default=1, show_default=True, help="Questions from each of the 13 categories.")
@click.option("--tokens", default=128, show_default=True, help="Tokens to decode for each.")
@click.option("--draft-max", default=Settings.draft_max, show_default=True)
@click.option("--temp", default=0.0, show_default=True, help="With 0.8, llama_cpp.Llama's text differs.")
@click.option("--threads", default=default_threads(), show_default=True)
@click.option("--markdown", type=click.Path(path_type=Path), help="Append the report to this file.")
def main(
    model: Path | None,
    questions: int,
    tokens: int,
    draft_max: int,
    temp: float,
    threads: int,
    markdown: Path | None,
) -> None:
    model = model or default_model()
    sampling = GREEDY if temp == 0 else Sampling(temperature=temp, seed=1)
    engines = {
        name: Engine(
            model,
            settings=Settings(schedule=name, draft_max=draft_max, threads=threads, context_size=CONTEXT),
        )
        for name in (PLAIN, *DRAFTING)
    }
    contenders = {name: ours(engine, tokens, sampling) for name, engine in engines.items()}
    contenders[LLAMA] = llama(model, tokens, threads, temp)
    results: dict[str, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))
    render = engines[PLAIN].render
    jobs = [
        (c, render([{"role": "user", "content": q}]))
        for c, qs in questions_by_category(questions).items()
        for q in qs
    ]
    for i, (category, ids) in enumerate(track(jobs, "answering")):
        names = list(contenders)
        for name in names[i % len(names) :] + names[: i % len(names)]:  # nobody always goes first
            results[category][name].append(contenders[name](ids))
    names = [LLAMA, PLAIN, *DRAFTING]
    click.echo(
        report
        := f"{heading(model, temp, tokens, draft_max, threads, len(jobs))}\n\n{table(results, names)}\n"
    )
    if markdown:
        with markdown.open("a") as file:
            file.write(report + "\n")


if __name__ == "__main__":
    main()
