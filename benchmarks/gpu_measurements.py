"""What gpu.py measures once all is built: exactness, speed, what passes cost, what drafts would gain.

    python benchmarks/gpu_measurements.py --out DIR MODEL.gguf …

Stages run in the order of their importance; one that the deadline leaves no time for is left out, and
the report says so. Speed-ups on random weights are projections: passes measured there, acceptances from
elsewhere.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from answers import Job, cpu_name, ours, questions_by_category, rotated, table
from random_llama import SHAPES, write_random_llama
from ties import UNFILTERED, lead_at_parting

from pass_edge import Engine, Settings
from pass_edge.costs import pass_times, read_text
from pass_edge.native.context import Context
from pass_edge.native.devices import devices
from pass_edge.native.library import system_info
from pass_edge.native.model import Model
from pass_edge.settings import context_settings, with_fitting_layers

FILE_TYPES = ("Q4_K_M", "Q8_0")
Result = dict[str, Any]


@dataclass
class Run:
    """What is measured, with what, and what came of it. ``results``: by stage; ``left_out``: and why."""

    deadline: float
    scratch: Path
    widths: list[int]
    depths: list[int]
    tokens: int
    questions: int
    acceptance: list[float] | None
    results: Result = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def stage(self, name: str, seconds: float, measure: Callable[[], Result]) -> None:
        """Run one stage, of about ``seconds``, if there is time; one that fails does not end the others."""
        if time.time() + seconds > self.deadline:
            self.left_out[name] = f"needs about {seconds:.0f} s and there were not as many left"
            return
        click.echo(f"{name} …")
        try:
            self.results[name] = measure()
        except Exception as error:  # whatever it is: a report of the rest is worth more
            self.left_out[name] = f"{type(error).__name__}: {error}"


def prompts(engine: Engine, count: int) -> list[list[int]]:
    """One question from each of the first ``count`` categories."""
    firsts = [questions[0] for questions in questions_by_category(1).values()][:count]
    if engine.model.chat_template() is None:
        return [engine.tokenize(question) for question in firsts]
    return [engine.render([{"role": "user", "content": question}]) for question in firsts]


def exactness(path: Path, run: Run) -> Result:
    """Plain against drafting. Where batch sizes differ, texts may part where the lead is no more than what
    two tokens may have moved by."""
    with _engine(path, "plain") as plain, _engine(path, "drafting") as drafting:
        leads = [
            lead_at_parting(plain.session, drafting.session, prompt, sampling, run.tokens)
            for prompt in prompts(plain, run.questions)
            for sampling in UNFILTERED
        ]
        width, difference = drafting.calibration.width, drafting.calibration.difference
        allowed = 0.0 if width > 1 else 2 * difference
        parted = [lead for lead in leads if lead is not None]
        return {
            "schedule": drafting.schedule,
            "texts": len(leads),
            "parted_at_leads": parted,
            "batch_difference": difference,
            "invariant_width": width,
            "holds": all(lead <= allowed for lead in parted) and (width == 1 or not parted),
        }


def speed(path: Path, run: Run) -> Result:
    """Tokens a second, plain and drafting in turn, greedy."""
    job = Job(path, run.tokens, 0, 0.0)
    schedules = ("plain", "drafting", "auto")
    with (
        _engine(path, "plain") as plain,
        _engine(path, "drafting") as drafting,
        _engine(path, "auto") as auto,
    ):
        engines = dict(zip(schedules, (plain, drafting, auto), strict=True))
        contenders = {name: ours(engine, job) for name, engine in engines.items()}
        answers = {name: [] for name in contenders}
        for turn, prompt in enumerate(prompts(plain, run.questions)):
            for name in rotated(list(contenders), turn):
                answers[name].append(contenders[name](prompt))
        return {
            f"{name} ({engines[name].schedule})": {
                "tokens_per_second": statistics.median(a.tokens_per_second for a in answers[name]),
                "ratio": statistics.median(
                    a.tokens_per_second / b.tokens_per_second
                    for a, b in zip(answers[name], answers["plain"], strict=True)
                ),
                "tokens_per_pass": statistics.mean(a.tokens_per_pass or 1.0 for a in answers[name]),
                "host_share": statistics.median(a.host_share or 0.0 for a in answers[name]),
            }
            for name in schedules
        }


def _engine(path: Path, schedule: str) -> Engine:
    """ "drafting" is fused, or auto (n-grams) for a model without lookahead."""
    if schedule != "drafting":
        return Engine(path, settings=Settings(schedule=schedule))
    engine = Engine(path, settings=Settings(schedule="fused"))
    if engine.schedule == "fused":
        return engine
    engine.close()
    return Engine(path)


def pass_costs(path: Path, run: Run) -> Result:
    """Milliseconds of a pass over each of the widths, behind each depth."""
    settings = with_fitting_layers(Settings(context_size=max(run.depths) + max(run.widths)), path)
    costs: Result = {}
    with Model(path, gpu_layers=settings.gpu_layers) as model:
        made = context_settings(model, settings, settings.context_size)
        with Context(model, made) as context:
            held = 0
            for depth in sorted(run.depths):
                read_text(context, held, depth)
                held = depth
                pass_times(context, depth, run.widths)  # kernels are loaded and graphs made at first use
                costs[str(depth)] = (1000 * pass_times(context, depth, run.widths)).round(3).tolist()
    return costs


def random_costs(name: str, file_type: str, run: Run) -> Result:
    """``pass_costs`` of a random model, and the projection from them."""
    path = write_random_llama(run.scratch / f"random-{name}-{file_type}.gguf", SHAPES[name], file_type)
    try:
        costs = pass_costs(path, run)
    finally:
        path.unlink()
    return {"costs": costs, "projection": projections(costs, run)} if run.acceptance else {"costs": costs}


def projections(costs: Result, run: Run) -> Result:
    """The best speed-up that chains of drafts would have, by depth: by the hidden head, where k drafts cost
    k rows more, and fused, where each of k + 1 nodes has k lookahead tokens too. The host's time is not
    in it."""
    assert run.acceptance
    expected = 1 + np.cumsum(np.cumprod(run.acceptance))  # tokens a pass with k = 1, 2 … drafts

    def best(milliseconds: Sequence[float], rows_of: Callable[[int], int]) -> float:
        ratios = [
            tokens * milliseconds[0] / np.interp(rows_of(k), run.widths, milliseconds)
            for k, tokens in enumerate(expected, 1)
            if rows_of(k) <= max(run.widths)
        ]
        return round(float(max(ratios, default=1.0)), 3)

    return {
        depth: {
            "head": best(milliseconds, lambda k: k + 1),
            "fused": best(milliseconds, lambda k: (k + 1) ** 2),
        }
        for depth, milliseconds in costs.items()
    }


def markdown(device: str, run: Run) -> str:
    return "\n".join([f"# {device}", "", *_sections(run), *_left_out(run)]) + "\n"


def _sections(run: Run) -> Iterator[str]:
    for name, result in run.results.items():
        yield f"## {name}\n"
        if name.startswith("exactness"):
            yield from (f"- {key.replace('_', ' ')}: {value}" for key, value in result.items())
        elif name.startswith("speed"):
            rows = [[who, *(f"{value:.3g}" for value in figures.values())] for who, figures in result.items()]
            yield table(["schedule", *next(iter(result.values()))], rows)
        else:
            costs = result.get("costs", result)
            yield "Milliseconds of a pass over n rows\n"
            rows = [[depth, *(f"{value:.2f}" for value in values)] for depth, values in costs.items()]
            yield table(["tokens before", *map(str, run.widths)], rows)
            yield from _projected(result, run)
        yield ""


def _projected(result: Result, run: Run) -> Iterator[str]:
    if "projection" in result:
        chances = ", ".join(map(str, run.acceptance or ()))
        yield f"\n**A projection**, not a measurement: these passes, with drafts right as in {chances}\n"
        rows = [[depth, f"{p['head']:.2f}", f"{p['fused']:.2f}"] for depth, p in result["projection"].items()]
        yield table(["tokens before", "head, times plain", "fused, times plain"], rows)


def _left_out(run: Run) -> Iterator[str]:
    if run.left_out:
        yield "## Left out\n"
        yield from (f"- {name}: {why}" for name, why in run.left_out.items())


def stages(models: Sequence[Path], shapes: Sequence[str], run: Run) -> Iterator[None]:
    """All of them, the most important first; yields behind each."""
    answering = 3 + run.questions * run.tokens * 0.05
    for path in models:
        run.stage(f"exactness: {path.name}", 20 + answering, lambda path=path: exactness(path, run))
        yield
    for path in models:
        run.stage(f"speed: {path.name}", 20 + answering, lambda path=path: speed(path, run))
        yield
    for path in models:
        run.stage(f"passes: {path.name}", 15, lambda path=path: pass_costs(path, run))
        yield
    for file_type in FILE_TYPES:
        for name in shapes:
            shape = SHAPES[name]
            gigabytes = shape.n_layer * shape.n_embd * (2.5 * shape.n_embd + 3 * shape.n_ff) / 1e9
            run.stage(
                f"passes: random {name} {file_type}",
                15 + 8 * gigabytes,  # to write and to load them
                lambda name=name, file_type=file_type: random_costs(name, file_type, run),
            )
            yield


def _acceptance(given: str | None, models: Sequence[Path]) -> list[float] | None:
    """What was given, or what the first model's lookahead file says."""
    if given:
        return [float(share) for share in given.split(",")]
    for path in models:
        with Engine(path) as engine:
            if engine.lookahead and engine.lookahead.acceptance:
                return [round(share, 4) for share in engine.lookahead.acceptance]
    return None


def _numbers(text: str) -> list[int]:
    return sorted(map(int, text.split(",")))


@click.command(help=__doc__)
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder of the report.")
@click.option("--scratch", default=".", type=click.Path(path_type=Path), help="Where random models are made.")
@click.option("--deadline", type=float, default=float("inf"), help="In seconds since 1970.")
@click.option(
    "--widths", default="1,2,3,4,5,6,8,12,16,24,32,48,64", show_default=True, help="Rows of a pass."
)
@click.option("--depths", default="256,2048,8192", show_default=True, help="Tokens in the cache.")
@click.option("--tokens", default=128, show_default=True, help="Tokens of each answer.")
@click.option("--questions", default=6, show_default=True)
@click.option("--shapes", default="1B,8B,3B", show_default=True, help=f"Random models: {', '.join(SHAPES)}.")
@click.option("--acceptance", help="Chances that drafts are right, by depth. [default: the lookahead file's]")
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
    chances = _acceptance(acceptance, models)
    run = Run(deadline, scratch, _numbers(widths), _numbers(depths), tokens, questions, chances)
    device = next((d.description for d in devices() if d.kind in ("gpu", "igpu")), cpu_name())
    known = {"device": device, "library": system_info(), "widths": run.widths, "acceptance": chances}
    out.mkdir(parents=True, exist_ok=True)
    for _ in stages(models, shapes.split(","), run):  # a crash costs what comes after it, not the report
        found = {**known, "results": run.results, "left_out": run.left_out}
        (out / "gpu.json").write_text(json.dumps(found, indent=1))
        (out / "gpu.md").write_text(markdown(device, run))
    click.echo(f"{out / 'gpu.md'}: {len(run.results)} stages, {len(run.left_out)} left out")


if __name__ == "__main__":
    main()
