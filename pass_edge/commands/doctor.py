"""pass-edge doctor: checks of this machine, and suggested fixes."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from pass_edge import Engine, ModelError, Settings
from pass_edge.calibration.calibration import library_verdict
from pass_edge.calibration.measurement_cache import take_problem
from pass_edge.commands.terminal.output import quiet
from pass_edge.drafting.draft_model import DraftModel
from pass_edge.native import devices
from pass_edge.native.context import cache_bytes
from pass_edge.native.cpu_count import cpu_quota
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.library import cpu_library_path, has_kernels, kernels, library_path, system_info
from pass_edge.native.library_probe import BROKEN, WORKS
from pass_edge.native.llama_build.kernels import KERNELS
from pass_edge.native.llama_build.plan import plan_here
from pass_edge.native.model import ALL_LAYERS
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.expected_speed import expected_speed, hidden_head_seconds
from pass_edge.settings import PLAIN

from .engine_options import draft_model_option, model_argument
from .model_files import file_of

_KERNELS_MISSING = (
    "this build of llama.cpp lacks our kernels, which could run here. Where they were measured, on two AVX2 "
    "cores, answers came 1.4 to 1.5 times as fast without drafts, and prompts were read about twice as fast. "
    "Build and install them: pass-edge setup"
)  # docs/benchmarks.md


@click.command()
@model_argument
@draft_model_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(model: str | None, draft_model: str | None, as_json: bool) -> None:
    """Check this machine and a model, and suggest fixes.

    The report covers llama.cpp's library, the devices, MODEL or the default model, and a draft model.

    \b
    pass-edge doctor
    pass-edge doctor model.gguf --json
    pass-edge doctor model.gguf --draft-model small.gguf
    """
    report = examine(model, draft_model)
    if as_json:
        click.echo(json.dumps(report))
        return
    for part in ("library", "machine", "model"):
        click.secho(part.replace("_", " "), bold=True)
        for key, value in report[part].items():
            click.echo(f"  {key.replace('_', ' '):20} {value}")
    for advice in report["advice"] or ["no problems found"]:
        click.echo(f"- {advice}")


def examine(model: str | None = None, draft_model: str | None = None) -> dict[str, Any]:
    """Return the report as plain data, for ``model`` or the default model, with ``draft_model`` if given."""
    plan, verdict = plan_here(), library_verdict(quiet)
    advice = [] if verdict == WORKS else ["build llama.cpp here again: pass-edge setup"]
    if not has_kernels() and KERNELS in plan.cmake_args:
        advice.append(_KERNELS_MISSING)
    report: dict[str, Any] = {
        "library": {
            "path": str(library_path()),
            "cpu_backend": cpu_library_path().name,
            "verdict": verdict,
            "features": system_info(),
            "kernels": f"ours ({kernels()})" if kernels() else "llama.cpp's",
        },
        "machine": {
            "devices": devices.device_names(),
            "threads": devices.default_threads(),
            "cpu_quota": cpu_quota(),
            "best_backend": plan.reasons[0].removeprefix("backend "),
            "other_backends": list(plan.others),
            "amx": plan.amx,
        },
        "model": {"path": None},
        "advice": advice,
    }
    if verdict != BROKEN:
        _examine_model(model, draft_model, report)
    if problem := take_problem():
        advice.append(problem)
    return report


def _examine_model(model: str | None, draft_model: str | None, report: dict[str, Any]) -> None:
    try:
        found = file_of(model)
    except ModelError as error:
        if model:
            raise
        report["advice"].append(str(error))
        return
    draft = file_of(draft_model).path if draft_model else None
    with Engine(found, settings=Settings(draft_model=draft), note=quiet) as engine:
        width = engine.calibration.width
        report["model"] = {
            "path": str(engine.model.path),
            "description": engine.model.description,
            "lookahead": _lookahead(engine),
            "batch_invariance": f"up to {width} tokens a pass get the same bits as single tokens"
            if width > 1
            else f"none: batch sizes differ by up to {max(0.01, engine.calibration.difference):.2f} logits",
            "gpu_layers": "all" if engine.settings.gpu_layers == ALL_LAYERS else engine.settings.gpu_layers,
            "repacked_weights": engine.calibration.repack,
        }
        if engine.recurrent_bytes:
            report["model"]["recurrent_memory"] = _recurrent_memory(engine)
        if engine.draft_model and engine.costs:
            report["model"]["draft_model"] = _draft_model(engine.draft_model, engine.costs)
        report["advice"] += engine.notes


def _lookahead(engine: Engine) -> str | None:
    """Describe the lookahead file in use, and what its hidden head gains here by its measured acceptance."""
    lookahead, costs = engine.lookahead, engine.costs
    if lookahead is None:
        return None
    if not (costs and lookahead.hidden_head and lookahead.acceptance):
        return lookahead.describe()
    seconds = hidden_head_seconds(lookahead, TokenEmbeddings(engine.model.path), costs)
    speed = expected_speed(costs, seconds, lookahead.acceptance)
    return f"{lookahead.describe()}; that alone should decode at {speed:.2f} times plain speed here"


def _draft_model(draft_model: DraftModel, costs: StepCosts) -> str:
    """Describe what a draft model or MTP layers cost, and what they gain if their drafts are right."""
    model, settings = draft_model.model, draft_model.context.settings
    mib = (cache_bytes(model, settings) + (0 if settings.mtp else model.size)) / 2**20
    name = f"MTP layers of the model ({model.n_mtp_layers})" if settings.mtp else model.description
    seconds, speed_at = draft_model.step_seconds, partial(expected_speed, costs, draft_model.step_seconds)
    times = f"{1e3 * seconds:.1f} ms a pass, where the model takes {1e3 * costs.at(0)[0]:.1f} ms"
    paying = next((percent for percent in range(1, 101) if speed_at([percent / 100]) > 1), None)
    gain = (
        f"alone, it pays if {paying} % of its drafts are right; "
        f"{speed_at([0.8]):.2f} times plain decoding if 80 % are"
        if paying
        else "cannot pay"
    )
    return f"{name}, {mib:.0f} MiB: {times}; {gain}"


def _recurrent_memory(engine: Engine) -> str:
    """Describe the size of the recurrent memory, and how drafts are rolled back in it."""
    mib, one = engine.recurrent_bytes / 2**20, engine.calibration.state_bytes
    n_states = engine.recurrent_bytes // one
    if engine.schedule == PLAIN:
        return f"{mib:.1f} MiB: no drafts are rolled back"
    drafts = n_states - 1  # the doctor's engine has one conversation
    if not drafts:
        return f"{mib:.1f} MiB: states are copied, and accepted tokens decoded again after a rejected one"
    states = f"{n_states} states of {one / 2**20:.1f} MiB"
    return f"{mib:.1f} MiB: {states}, to take back up to {drafts} drafts, and a copy for more"
