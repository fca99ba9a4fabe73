"""Plot the results of `pass-edge bench`: the cost of passes, and the speed of each prompt's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pass_edge.native.output_file import atomic_write

FORMATS = (".png", ".svg", ".pdf")
_BAR_WIDTH = 0.27


class PassCosts(Protocol):
    """The cost of a pass: ``milliseconds[i][k]`` over ``rows[k]`` rows after ``depths[i]`` tokens."""

    @property
    def rows(self) -> Sequence[int]: ...

    @property
    def depths(self) -> Sequence[int]: ...

    @property
    def milliseconds(self) -> Sequence[Sequence[float]]: ...


def plot_comparison(
    path: Path, title: str, costs: PassCosts | None, speeds: Mapping[str, Sequence[float | None]]
) -> None:
    """Write the plot in the format of the suffix of ``path``, one of FORMATS.

    ``costs``: None if they were not measured. ``speeds``: tokens per second of each prompt's answer, by
    contender; None if it did not answer. Raises OutputError.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    _plot_costs(left, costs)
    _plot_speeds(right, speeds)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:].lower())


def _plot_costs(axes: Axes, costs: PassCosts | None) -> None:
    axes.set(xlabel="rows in a pass", ylabel="ms", title="Cost of a pass")
    if costs is None:
        axes.text(0.5, 0.5, "not measured: decoding is plain", ha="center", transform=axes.transAxes)
        return
    for depth, milliseconds in zip(costs.depths, costs.milliseconds, strict=True):
        axes.plot(costs.rows, milliseconds, marker=".", label=f"after {depth:,} tokens")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def _plot_speeds(axes: Axes, speeds: Mapping[str, Sequence[float | None]]) -> None:
    axes.set(xlabel="prompt", ylabel="tokens/s", title="Speed of answers")
    n_prompts = max(map(len, speeds.values()))
    for side, (contender, tokens_per_second) in enumerate(speeds.items(), -(len(speeds) // 2)):
        if any(tokens_per_second):
            places = [prompt + side * _BAR_WIDTH for prompt in range(1, n_prompts + 1)]
            axes.bar(places, [speed or 0 for speed in tokens_per_second], _BAR_WIDTH, label=contender)
    if n_prompts <= 20:
        axes.set_xticks(range(1, n_prompts + 1))
    axes.grid(alpha=0.3, axis="y")
    axes.legend(loc="lower right")
