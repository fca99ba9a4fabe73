"""The schedules against each other and against llama-cpp-python's own `Llama`, interleaved.

    python benchmarks/schedules.py --questions 2 --tokens 256 --markdown docs/benchmarks.md
    python benchmarks/schedules.py --model MODEL.gguf --contender auto --questions 0

Each question is answered by every contender in turn before the next question, so that what else the
machine does hits all alike; reported are medians of per-question ratios to our own plain schedule, and their
mean over the categories. All of ours decode the same text, which is checked. Only decoding is timed, not the
prompt. "plain again" is a second engine like the first: what two plain runs differ by.

Where its memory happens to lie makes an engine faster or slower for as long as it lives, and many answers are
over in a fifth of a second. With --rounds 3 all is done thrice, with new engines; the ratio of a question is
the median of its three.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from answers import (
    CONTEXT,
    Answer,
    Contender,
    Job,
    cpu_name,
    llama,
    ours,
    questions_by_category,
    rotated,
    table,
)
from rich.progress import Progress

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
Results = dict[str, list[dict[str, list[Answer]]]]
"""By category, for each of its questions and for each contender: its answer of every round."""


def ratios(questions: list[dict[str, list[Answer]]], name: str) -> list[float]:
    """Of the speeds of ``name`` and of plain: for each question, the median of its rounds."""
    return [
        statistics.median(
            mine.tokens_per_second / plain.tokens_per_second
            for mine, plain in zip(answers[name], answers[PLAIN], strict=True)
        )
        for answers in questions
    ]


def report(results: Results, names: list[str]) -> str:
    def row(title: str, cell: Callable[[str], str]) -> list[str]:
        return [title, *map(cell, names)]

    def measured(
        get: Callable[[Answer], float | None], form: str, middle: Callable[[list[float]], float]
    ) -> Cell:
        def cell(name: str) -> str:
            answers = [a for questions in results.values() for answers in questions for a in answers[name]]
            values = [value for answer in answers if (value := get(answer)) is not None]
            return form.format(middle(values)) if values else "–"

        return cell

    medians = {n: [statistics.median(ratios(found, n)) for found in results.values()] for n in names}
    pooled = {n: [ratio for found in results.values() for ratio in ratios(found, n)] for n in names}
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


def heading(job: Job, questions: int, rounds: int) -> str:
    again = f" of {rounds} rounds with new engines" if rounds > 1 else ""
    return (
        f"### {job.model.name}, temperature {job.temperature:g}\n\n"
        f"{cpu_name()}, {job.threads} threads; {questions} questions, {job.tokens} tokens each; ratios of "
        f"tokens/s to our plain schedule, medians of one interleaved run{again}."
    )


@contextmanager
def contenders(names: list[str], job: Job) -> Iterator[dict[str, Contender]]:
    """Those of ``names``, made in this order, which decides where their memory lies."""
    with ExitStack() as opened:

        def made(name: str) -> Contender:
            if name == LLAMA:
                return llama(job)
            settings = Settings(threads=job.threads, context_size=CONTEXT, **OURS[name])
            return ours(opened.enter_context(Engine(job.model, settings=settings)), job)

        yield {name: made(name) for name in names}


def answer_all(prompts: dict[str, list[list[int]]], names: list[str], job: Job, rounds: int) -> Results:
    """Raises ClickException where two of ours give different texts."""
    results: Results = {
        category: [defaultdict(list) for _ in of_category] for category, of_category in prompts.items()
    }
    jobs = [
        (category, ids, results[category][i])
        for category, found in prompts.items()
        for i, ids in enumerate(found)
    ]
    with Progress() as bar:
        task = bar.add_task("answering", total=rounds * len(jobs))
        for number in range(rounds):
            with contenders(rotated(names, number), job) as answering:
                for turn, (category, ids, answers) in enumerate(jobs):
                    for name in rotated(names, turn + number):
                        answers[name].append(answering[name](ids))
                    texts = {a.text for name in names if name != LLAMA for a in answers[name]}
                    if len(texts) > 1:
                        raise click.ClickException(f"different texts in {category}: {sorted(texts)}")
                    bar.advance(task)
    return results


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
@click.option("--rounds", default=1, show_default=True, help="How often all is done, with new engines.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Append the report to this file.")
def main(
    model: Path | None,
    questions: int,
    tokens: int,
    wanted: tuple[str, ...],
    temp: float,
    threads: int,
    rounds: int,
    markdown: Path | None,
) -> None:
    job = Job(model or default_model(), tokens, threads, temp)
    names = [name for name in (*OURS, LLAMA) if name == PLAIN or not wanted or name in wanted]
    with Engine(job.model, lookahead=None) as engine:
        prompts = {
            category: [as_prompt(engine, question) for question in found]
            for category, found in questions_by_category(questions).items()
        }
    results = answer_all(prompts, names, job, rounds)
    told = f"{heading(job, sum(map(len, prompts.values())), rounds)}\n\n{report(results, names)}\n"
    click.echo(told)
    if markdown:
        with markdown.open("a") as file:
            file.write(told + "\n")


if __name__ == "__main__":
    main()
