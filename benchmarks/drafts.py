"""Accuracy of the drafts of lookahead files, on the model's own answers to the dev prompts.

    python benchmarks/drafts.py model.gguf one.pass.gguf --markdown docs/training-log.md

The answers are made once for a model and a temperature, and kept in --work. Needs the extra `train`.
"""

from __future__ import annotations

from pathlib import Path

import click
from answers import table
from rich.console import Console
from rich.progress import Progress, track

from pass_edge import Engine, Settings, read_lookahead
from pass_edge.convert.training.frozen import FrozenModel
from pass_edge.convert.training.measure import DraftAccuracy, measure
from pass_edge.convert.training.prompts import read_prompts
from pass_edge.convert.training.text import TrainingText, make_texts

PROMPTS = Path(__file__).parent / "prompts" / "spec_bench_dev.jsonl"
TREES = (4, 8, 16)


def answers(model: Path, work: Path, questions: int, tokens: int, temp: float) -> list[TrainingText]:
    """Return the model's answers to ``questions`` of the dev prompts, spread over their whole list."""
    prompts = list(read_prompts(PROMPTS))
    chosen = [prompts[i * len(prompts) // questions] for i in range(questions)]
    folder = work / f"{model.stem}-{temp:g}-{questions}-{tokens}"
    with (
        Engine(model, lookahead=None, settings=Settings(schedule="plain")) as engine,
        Progress(console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("answering", total=questions)
        return make_texts(
            engine,
            chosen,
            folder,
            count=questions,
            max_tokens=tokens,
            max_prompt=2048,
            temperatures=(temp,),
            progress=lambda done, _: bar.update(task, completed=done),
        )


def row(file: str, source: str, drafts: DraftAccuracy) -> list[str]:
    top_1 = " ".join(f"{share:.2f}" for share in drafts.shares[:, 0])
    top_3 = " ".join(f"{share:.2f}" for share in drafts.shares[:, :3].sum(1))
    trees = [f"{drafts.tokens_per_pass(batch):.2f}" for batch in TREES]
    return [file, source, top_1, top_3, f"{drafts.both:.2f}", *trees]


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("lookahead", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--questions", default=240, show_default=True)
@click.option("--tokens", default=128, show_default=True, help="Of each answer.")
@click.option("--every", default=1, show_default=True, help="Measure at every n-th position of an answer.")
@click.option("--temp", default=0.0, show_default=True)
@click.option("--work", default=Path("build/drafts"), show_default=True, type=click.Path(path_type=Path))
@click.option("--markdown", type=click.Path(path_type=Path), help="Append the report to this file.")
def main(
    model: Path,
    lookahead: tuple[Path, ...],
    questions: int,
    tokens: int,
    every: int,
    temp: float,
    work: Path,
    markdown: Path | None,
) -> None:
    texts = answers(model, work, questions, tokens, temp)
    frozen = FrozenModel(model)
    rows, anchors = [], 0
    for path in lookahead:
        measured = measure(
            frozen, track(texts, path.name, console=Console(stderr=True)), read_lookahead(path), every
        )
        name = path.name.removesuffix(".pass.gguf")
        rows += [row(name, source, drafts) for source, drafts in measured.items()]
        anchors = max(drafts.anchors for drafts in measured.values())
    trees = [f"tree of {batch}" for batch in TREES]
    head = ["file", "drafts", "top-1 by depth", "top-3 by depth", "depths 1 and 2", *trees]
    title = f"### {model.stem}, temperature {temp:g}, answers of up to {tokens} tokens"
    click.echo(report := f"{title}\n\n{questions} prompts, {anchors} positions.\n\n{table(head, rows)}\n")
    if markdown:
        with markdown.open("a") as file:
            file.write("\n" + report)


if __name__ == "__main__":
    main()
