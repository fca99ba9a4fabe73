"""The schedules against each other and against llama-cpp-python's own `Llama`, interleaved.

    python benchmarks/schedules.py --questions 1 --tokens 128 --markdown docs/benchmarks.md

Each question is answered by every contender in turn before the next question, so that what else the
machine does hits all alike; reported are medians of per-question ratios to our own plain schedule.
Greedy, so that all decode the same text. Only decoding is timed, not the prompt.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

import click
from answers import CONTEXT, Answer, Job, cpu_name, llama, ours, questions_by_category, rotated
from rich.progress import track

from pass_edge import Engine, Settings
from pass_edge.models import default_model
from pass_edge.native.devices import default_threads

LLAMA, PLAIN = "llama_cpp.Llama", "plain"
DRAFTING = ("head", "two-pass", "fused")


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
    job = Job(model, tokens, threads, temp)
    engines = {
        name: Engine(
            model,
            settings=Settings(schedule=name, draft_max=draft_max, threads=threads, context_size=CONTEXT),
        )
        for name in (PLAIN, *DRAFTING)
    }
    contenders = {name: ours(engine, job) for name, engine in engines.items()}
    contenders[LLAMA] = llama(job, engines[PLAIN].model.vocabulary.is_end)
    results: dict[str, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))
    render = engines[PLAIN].render
    jobs = [
        (c, render([{"role": "user", "content": q}]))
        for c, qs in questions_by_category(questions).items()
        for q in qs
    ]
    for i, (category, ids) in enumerate(track(jobs, "answering")):
        for name in rotated(list(contenders), i):
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
