"""The measurements of gpu.py: exactness, speed, the cost of passes, the projected gain of drafts.

    python benchmarks/gpu_measurements.py --out DIR MODEL.gguf …

Stages run in the order of their importance. The report is rewritten after each new result. At the deadline
the running stage is stopped, and its results so far count. Speed-ups on random weights are projections: they
combine passes measured there with acceptance counted on other models.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

import candidates
import click
from answers import cpu_name, questions_by_category, rotated
from gpu_report import markdown
from gpu_run import PartialResults, Result, Run
from llama_calls import calls_of_steps
from projection import ROWS, projections, shares
from random_llama import SHAPES, write_random_llama
from ties import UNFILTERED, margin_at_divergence

from pass_edge import Engine, Sampling, Settings
from pass_edge.native.context import Context
from pass_edge.native.devices import devices
from pass_edge.native.library import system_info
from pass_edge.native.model import Model
from pass_edge.planning.pass_times import IN_A_ROW, pass_times, read_text
from pass_edge.settings import context_settings, with_fitting_layers
from pass_edge.stats import Stats

PROJECTED_TYPES = ("Q4_K_M", "Q8_0")
GREEDY = Sampling(temperature=0)
DRAFTS = 4
"""Tokens drafted at every step by the schedules that do."""


def prompts(engine: Engine, count: int) -> list[list[int]]:
    """Return one question from each of the first ``count`` categories, as token ids."""
    firsts = [questions[0] for questions in questions_by_category(1).values()][:count]
    if engine.model.chat_template() is None:
        return [engine.tokenize(question) for question in firsts]
    return [engine.render([{"role": "user", "content": question}]) for question in firsts]


def engines(path: Path, schedules: Sequence[str], opened: ExitStack) -> dict[str, Engine]:
    """Open an engine for each schedule. Schedules that the model has no lookahead for are left out."""
    by_schedule = {}
    for schedule in schedules:
        depth = None if schedule in ("plain", "auto") else DRAFTS
        engine = opened.enter_context(Engine(path, settings=Settings(schedule=schedule, draft_max=depth)))
        if engine.schedule == schedule:
            by_schedule[schedule] = engine
    return by_schedule


def exactness(path: Path, run: Run) -> PartialResults:
    """Compare plain decoding with the schedule that drafts most. If batch sizes change bits, texts may
    diverge where the margin is at most twice the batch-to-batch difference, by which each of two tokens may
    move."""
    with ExitStack() as opened:
        by_schedule = engines(path, ("plain", "auto", "fused"), opened)
        plain, (schedule, drafting) = by_schedule["plain"], list(by_schedule.items())[-1]
        width, difference = drafting.calibration.width, drafting.calibration.difference
        allowed = 0.0 if width > 1 else 2 * difference
        margins: list[float | None] = []
        for prompt in prompts(plain, run.questions):
            for sampling in UNFILTERED:
                margin = margin_at_divergence(plain.session, drafting.session, prompt, sampling, run.tokens)
                margins.append(margin)
                diverged = [margin for margin in margins if margin is not None]
                yield {
                    "schedule": schedule,
                    "gpu_layers": drafting.settings.gpu_layers,
                    "notes": drafting.notes,
                    "texts": len(margins),
                    "parted_at_leads": diverged,
                    "batch_difference": difference,
                    "invariant_width": width,
                    "holds": all(margin <= allowed for margin in diverged) and (width == 1 or not diverged),
                }


def speed(path: Path, run: Run) -> PartialResults:
    """Measure tokens per second, plain and drafting in turn, greedy; and the calls of llama.cpp in a step."""
    with ExitStack() as opened:
        by_schedule = engines(path, ("plain", "head", "fused", "auto"), opened)
        questions = prompts(by_schedule["plain"], run.questions)
        stats: dict[str, list[Stats]] = {name: [] for name in by_schedule}
        calls: Result = {name: {} for name in by_schedule}
        for name, engine in by_schedule.items():
            calls[name] = calls_of_steps(engine, questions[0], run.tokens)
        for turn, prompt in enumerate(questions):
            for name in rotated(list(by_schedule), turn):
                generation = by_schedule[name].stream(prompt, sampling=GREEDY, max_tokens=run.tokens)
                stats[name].append(generation.run().stats)
            run.counted |= {name: shares(stats[name]) for name in ROWS if name in by_schedule}
            yield {name: figures(stats[name], stats["plain"]) | calls[name] for name in by_schedule}


def figures(stats: Sequence[Stats], plain: Sequence[Stats]) -> Result:
    """Return medians over the answers, relative to ``plain``, and the totals of tokens and drafts."""
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(stats, plain, strict=True)]
    return {
        "tokens_per_second": statistics.median(a.tokens_per_second for a in stats),
        "times_plain": statistics.median(ratios),
        "tokens_per_pass": sum(a.tokens for a in stats) / sum(a.passes for a in stats),
        "drafts_right": shares(stats),
    }


def pass_costs(path: Path, run: Run) -> PartialResults:
    """Measure milliseconds of a pass over each width after each depth: "repeated", after passes of the same
    width, whose graph is reused; "changed", after a pass of another width."""
    cells = max(run.depths) + max(run.widths)
    settings = with_fitting_layers(Settings(context_size=cells), path)
    costs: Result = {"repeated": {}, "changed": {}}
    with Model(path, gpu_layers=settings.gpu_layers or 0) as model:
        for_context = context_settings(model, settings, cells)
        with Context(model, for_context) as context:
            for before, depth in pairwise([0, *sorted(run.depths)]):
                read_text(context, before, depth)
                for kind, in_a_row in (("repeated", IN_A_ROW), ("changed", 1)):
                    seconds = pass_times(context, depth, run.widths, in_a_row=in_a_row)
                    costs[kind][str(depth)] = (1000 * seconds).round(3).tolist()
                    yield costs


def choosing(path: Path, _: Run) -> PartialResults:
    """Measure milliseconds of passes whose tokens are chosen on the host from all logits, or on the
    device."""
    yield from candidates.measured(path, rounds=10)


def random_costs(name: str, file_type: str, run: Run) -> PartialResults:
    """Measure ``pass_costs`` of a random model, and project speed-ups from them."""
    path = run.scratch / f"random-{name}-{file_type}.gguf"
    try:
        write_random_llama(path, SHAPES[name], file_type)
        for costs in pass_costs(path, run):
            yield {**costs, "projection": projections(costs["repeated"], run.widths, run.acceptance)}
    finally:
        path.unlink(missing_ok=True)


def measure_all(models: Sequence[Path], shapes: Sequence[str], run: Run) -> None:
    """Run all stages, the most important first."""
    for path in models:
        run.stage(f"exactness: {path.name}", 20, partial(exactness, path, run))
    for path in models:
        run.stage(f"speed: {path.name}", 20, partial(speed, path, run))
    for path in models:
        run.stage(f"passes: {path.name}", 15, partial(pass_costs, path, run))
    for path in models:
        run.stage(f"candidates: {path.name}", 5, partial(choosing, path, run))
    for file_type in PROJECTED_TYPES:
        for name in shapes:
            shape = SHAPES[name]
            gigabytes = shape.n_layer * shape.n_embd * (2.5 * shape.n_embd + 3 * shape.n_ff) / 1e9
            run.stage(
                f"passes: random {name} {file_type}",
                15 + 8 * gigabytes,  # to write and load the model
                partial(random_costs, name, file_type, run),
            )


def _numbers(text: str) -> list[int]:
    return sorted(set(map(int, text.split(","))))


@click.command(help=__doc__)
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder for the report.")
@click.option("--scratch", default=".", type=click.Path(path_type=Path), help="The folder for random models.")
@click.option("--deadline", type=float, default=float("inf"), help="When to stop, in seconds since 1970.")
@click.option(
    "--widths", default="1,2,3,4,5,6,8,12,16,24,32,48,64", show_default=True, help="Rows of a pass."
)
@click.option("--depths", default="256,2048,8192", show_default=True, help="Tokens in the cache.")
@click.option("--tokens", default=128, show_default=True, help="Tokens of each answer.")
@click.option("--questions", default=6, show_default=True)
@click.option("--shapes", default="1B,8B,3B", show_default=True, help=f"Random models: {', '.join(SHAPES)}.")
@click.option(
    "--acceptance",
    help="Shares of passes whose first 1, 2 … drafts are all right, as in `generate --json`. "
    "[default: counted on the last model here that has a lookahead file]",
)
def main(
    models: tuple[Path, ...],
    out: Path,
    scratch: Path,
    deadline: float,
    widths: str,
    depths: str,
    tokens: int,
    questions: int,
    shapes: str,
    acceptance: str | None,
) -> None:
    run = Run(deadline, scratch, _numbers(f"1,{widths}"), _numbers(depths), tokens, questions)
    run.given = [float(share) for share in acceptance.split(",")] if acceptance else None
    device = next((d.description for d in devices() if d.kind in ("gpu", "igpu")), cpu_name())
    machine = {"device": device, "library": system_info(), "widths": run.widths}

    def report() -> None:
        results = {"acceptance": run.acceptance, "results": run.results, "left_out": run.left_out}
        _write(out / "gpu.json", json.dumps({**machine, **results}, indent=1))
        _write(out / "gpu.md", markdown(device, run))

    run.report = report
    out.mkdir(parents=True, exist_ok=True)
    report()
    measure_all(models, shapes.split(","), run)
    click.echo(f"{out / 'gpu.md'}: {len(run.results)} stages, {len(run.left_out)} left out or stopped")


def _write(path: Path, text: str) -> None:
    """Replace ``path`` atomically: a process that is killed leaves the old file."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


if __name__ == "__main__":
    main()
