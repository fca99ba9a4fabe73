"""The schedules against each other and against llama-cpp-python's own `Llama`, interleaved.

    python benchmarks/schedules.py --questions 2 --tokens 256 --markdown docs/benchmarks.md
    python benchmarks/schedules.py --model MODEL.gguf --contender auto --questions 0

Each question is answered by every contender in turn before the next question, so that what else the
machine does hits all alike; reported are medians of per-question ratios to our own plain schedule, and their
mean over the categories. All of ours decode the same text, which is checked. Only decoding is timed, not the
prompt. "plain again" is a second engine like the first: what two plain runs differ by.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import click
from answers import CONTEXT, Answer, Job, cpu_name, llama, ours, questions_by_category, rotated, table
from rich.progress import track

from pass_edge import Engine, Settings
from pass_edge.convert.training.prompts import as_prompt
from pass_edge.models import default_model
from pass_edge.native.devices import default_threads

LLAMA, PLAIN = "llama_cpp.Llama", "plain"
OURS = {
    PLAIN: {"schedule": "plain"},
    "plain again": {"schedule": "plain"},
    "auto": {},
    "auto, no n-grams": {"ngrams": False},
    "head": {"schedule": "head"},
    "two-pass": {"schedule": "two-pass"},
    "fused": {"schedule": "fused"},
}
"""What each contender of ours sets."""
Cell = Callable[[str], str]


def ratios(answers: dict[str, list[Answer]], name: str) -> list[float]:
    """Of the speeds of ``name`` and of plain, question by question."""
    pairs = zip(answers[name], answers[PLAIN], strict=True)
    return [mine.tokens_per_second / plain.tokens_per_second for mine, plain in pairs]


def report(results: dict[str, dict[str, list[Answer]]], names: list[str]) -> str:
    def row(title: str, cell: Callable[[str], str]) -> list[str]:
        return [title, *map(cell, names)]

    def measured(
        get: Callable[[Answer], float | None], form: str, middle: Callable[[list[float]], float]
    ) -> Cell:
        def cell(name: str) -> str:
            values = [v for answers in results.values() for a in answers[name] if (v := get(a)) is not None]
            return form.format(middle(values)) if values else "–"

        return cell

    medians = {n: [statistics.median(ratios(answers, n)) for answers in results.values()] for n in names}
    pooled = {n: [ratio for answers in results.values() for ratio in ratios(answers, n)] for n in names}
    rows = [row(category, lambda n, i=i: f"{medians[n][i]:.2f}") for i, category in enumerate(results)]
    rows += [
        row("**mean over categories**", lambda n: f"{statistics.mean(medians[n]):.2f}"),
        row("median of all questions", lambda n: f"{statistics.median(pooled[n]):.2f}"),
        row("worst category", lambda n: f"{min(medians[n]):.2f}"),
        row("worst question", lambda n: f"{min(pooled[n]):.2f}"),
        row("quartiles", lambda n: " … ".join(f"{q:.2f}" for q in statistics.quantiles(pooled[n])[::2])),
        row("median tokens/s", measured(lambda a: a.tokens_per_second, "{:.1f}", statistics.median)),
        row("mean tokens/pass", measured(lambda a: a.tokens_per_pass, "{:.2f}", statistics.mean)),
        row(
            "median share of time outside llama.cpp",
            measured(lambda a: a.host_share, "{:.1%}", statistics.median),
        ),
    ]
    return table(["category", *names], rows)


def heading(job: Job, questions: int) -> str:
    return (
        f"### {job.model.name}, temperature {job.temperature:g}\n\n"
        f"{cpu_name()}, {job.threads} threads; {questions} questions, {job.tokens} tokens each; ratios of "
        "tokens/s to our plain schedule, medians of one interleaved run."
    )


@click.command(help=__doc__)
@click.option("--model", type=click.Path(path_type=Path), help="A GGUF file; the default model if not given.")
@click.option("--questions", default=1, show_default=True, help="Questions from each of the 13 categories.")
@click.option("--tokens", default=128, show_default=True, help="Tokens to decode for each.")
@click.option(
    "--contender",
    "wanted",
    multiple=True,
    type=click.Choice([*(name for name in OURS if name != PLAIN), LLAMA]),
    help="Who is compared to plain; may be repeated. [default: all]",
)
@click.option("--temp", default=0.0, show_default=True, help="With 0.8, llama_cpp.Llama's text differs.")
@click.option("--threads", default=default_threads(), show_default=True)
@click.option("--markdown", type=click.Path(path_type=Path), help="Append the report to this file.")
def main(
    model: Path | None,
    questions: int,
    tokens: int,
    wanted: tuple[str, ...],
    temp: float,
    threads: int,
    markdown: Path | None,
) -> None:
    model = model or default_model()
    job = Job(model, tokens, threads, temp)
    engines = {
        name: Engine(model, settings=Settings(threads=threads, context_size=CONTEXT, **settings))
        for name, settings in OURS.items()
        if name == PLAIN or not wanted or name in wanted
    }
    contenders = {name: ours(engine, job) for name, engine in engines.items()}
    if not wanted or LLAMA in wanted:
        contenders[LLAMA] = llama(job)
    results: dict[str, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))

    jobs = [
        (c, as_prompt(engines[PLAIN], q)) for c, qs in questions_by_category(questions).items() for q in qs
    ]
    for i, (category, ids) in enumerate(track(jobs, "answering")):
        for name in rotated(list(contenders), i):
            results[category][name].append(contenders[name](ids))
        texts = {results[category][name][-1].text for name in engines}
        if len(texts) > 1:
            raise click.ClickException(f"the schedules gave different texts to a question of {category}")
    told = f"{heading(job, len(jobs))}\n\n{report(results, list(contenders))}\n"
    click.echo(told)
    if markdown:
        with markdown.open("a") as file:
            file.write(told + "\n")


if __name__ == "__main__":
    main()
