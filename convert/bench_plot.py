"""Plot the report of `pass-edge bench`: the cost of passes, and the speed of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pass_edge.native.output_file import atomic_write

FORMATS = (".png", ".svg", ".pdf")
_BAR = 0.27


def plot_report(path: Path, title: str, report: Mapping[str, Any]) -> None:
    """Plot ``report``, the JSON object of `pass-edge bench`, to ``path``, whose suffix is one of FORMATS.

    Raises OutputError.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    _draw_costs(left, report["passes"])
    _draw_speeds(right, report["prompts"])
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:].lower())


def _draw_costs(axes: Axes, costs: Mapping[str, Any] | None) -> None:
    axes.set(xlabel="rows in a pass", ylabel="ms", title="What a pass costs")
    if costs is None:
        axes.text(0.5, 0.5, "not measured: it decodes plainly", ha="center", transform=axes.transAxes)
        return
    for depth, milliseconds in zip(costs["depths"], costs["milliseconds"], strict=True):
        axes.plot(costs["rows"], milliseconds, marker=".", label=f"after {depth:,} tokens")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_speeds(axes: Axes, prompts: Sequence[Mapping[str, Any]]) -> None:
    axes.set(xlabel="prompt", ylabel="tokens/s", title="How fast it was answered")
    numbers = range(1, len(prompts) + 1)
    for name, side in (("stock", -1), ("plain", 0), ("auto", 1)):
        speeds = [prompt[f"{name}_tokens_per_second"] for prompt in prompts]
        if any(speeds):
            bars = [speed or 0 for speed in speeds]
            axes.bar([number + side * _BAR for number in numbers], bars, _BAR, label=name)
    if len(numbers) <= 20:
        axes.set_xticks(numbers)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(loc="lower right")
