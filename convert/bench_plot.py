"""Plot the results of `pass-edge bench`: the cost of passes, and the speed of each prompt's answer."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pass_edge.commands.comparison import Comparison, Curve
from pass_edge.native.output_file import atomic_write

FORMATS = (".png", ".svg", ".pdf")
_BAR = 0.27


def plot_comparison(path: Path, title: str, comparison: Comparison) -> None:
    """Write the plot in the format of the suffix of ``path``, one of FORMATS. Raises OutputError."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    _draw_curve(left, comparison.curve)
    _draw_speeds(right, comparison)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:].lower())


def _draw_curve(axes: Axes, curve: Curve | None) -> None:
    axes.set(xlabel="rows in a pass", ylabel="ms", title="What a pass costs")
    if curve is None:
        axes.text(0.5, 0.5, "not measured: it decodes plainly", ha="center", transform=axes.transAxes)
        return
    for depth, milliseconds in zip(curve.depths, curve.milliseconds, strict=True):
        axes.plot(curve.rows, milliseconds, marker=".", label=f"after {depth:,} tokens")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_speeds(axes: Axes, comparison: Comparison) -> None:
    axes.set(xlabel="prompt", ylabel="tokens/s", title="How fast it was answered")
    numbers = range(1, len(comparison.pairs) + 1)
    for name, side in (("stock", -1), ("plain", 0), ("auto", 1)):
        speeds = [getattr(pair.figures, f"{name}_tokens_per_second") for pair in comparison.pairs]
        if any(speeds):
            bars = [speed or 0 for speed in speeds]
            axes.bar([number + side * _BAR for number in numbers], bars, _BAR, label=name)
    if len(numbers) <= 20:
        axes.set_xticks(numbers)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(loc="lower right")
