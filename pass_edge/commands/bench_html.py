"""The report of ``pass-edge bench`` as one HTML file that needs nothing else."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment

from pass_edge.native.devices import device_names
from pass_edge.native.library import kernels

_TEMPLATE = Path(__file__).with_name("bench_report.html")
_NAMES = ("stock", "plain", "auto")
_BAR_WIDTH = 620  # of the fastest, in the units of the chart


def report_html(
    report: Mapping[str, Any],
    *,
    headline: str,
    verdict: str,
    columns: Mapping[str, str],
    cells: Callable[[Mapping[str, Any]], list[str]],
) -> str:
    """Return ``report``, the command's JSON object, as HTML. ``columns``: titles of the columns, by figure;
    ``cells`` formats the figures of one row."""
    template = Environment(autoescape=True).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        headline=headline,
        verdict=verdict,
        names=_NAMES,
        columns=columns.values(),
        rows=[(row["prompt"], cells(row)) for row in report["prompts"]],
        medians=cells(report["medians"]),
        bars=_bars(report["prompts"]),
        machine=_machine(report),
    )


def _bars(prompts: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars of the chart: those of each prompt together, the first with its label."""
    bars: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts, 1):
        speeds = {name: prompt[f"{name}_tokens_per_second"] for name in _NAMES}
        known = {name: speed for name, speed in speeds.items() if speed}
        labels = [f"prompt {number}", *[""] * len(known)]
        bars += [
            {"name": name, "speed": speed, "label": label}
            for label, (name, speed) in zip(labels, known.items(), strict=False)
        ]
    fastest = max((bar["speed"] for bar in bars), default=1)
    return [{**bar, "width": round(_BAR_WIDTH * bar["speed"] / fastest, 1)} for bar in bars]


def _machine(report: Mapping[str, Any]) -> dict[str, str]:
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "devices": "; ".join(device_names()),
        "threads": str(report["threads"]),
        "system": platform.platform(),
        "model": report["model"],
        "schedule": report["schedule"],
        "pass-edge": version("pass-edge"),
        "llama-cpp-python": version("llama-cpp-python"),
        "kernels": f"ours ({kernels()})" if kernels() else "llama.cpp's",
        "Python": platform.python_version(),
    }
