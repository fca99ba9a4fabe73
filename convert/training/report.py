"""The report of a training: one self-contained HTML page with plots of loss and acceptance."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure

from pass_edge.native.output_file import atomic_write

from .acceptance import AcceptanceBySource

_MAX_POINTS = 200  # of a loss curve
# reproducible ids, and text that stays text
_SVG_STYLE = {"svg.hashsalt": "pass-edge", "svg.fonttype": "none", "font.family": "sans-serif"}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "svg{width:100%;height:auto}td,th{padding:.2rem .8rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
)


@dataclass(frozen=True)
class TrainingCurve:
    """The course of a training: ``losses``: of each step, in nats; ``measured``: pairs of a step and the
    acceptance."""

    losses: npt.NDArray[np.float32]
    measured: Sequence[tuple[int, AcceptanceBySource]]


def write_report(
    path: Path, title: str, recipe: Mapping[str, Any], curves: Mapping[str, TrainingCurve]
) -> None:
    """Write a page about ``curves``, by the name of what was trained. Raises OutputError."""
    parts = [f"<h1>{html.escape(title)}</h1>", _table(("setting", "value"), recipe.items())]
    parts += [_section(name, curve) for name, curve in curves.items()]
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, "utf-8")


def _section(name: str, curve: TrainingCurve) -> str:
    parts = [f"<h2>{html.escape(name)}</h2>", *([_losses(curve)] if len(curve.losses) else [])]
    for source, shares in curve.measured[-1][1].items() if curve.measured else ():
        depths = range(1, len(shares.top_1) + 1)
        parts.append(f"<h3>Acceptance of {html.escape(source)}</h3>")
        parts.append(_acceptance(curve, source))
        rows = [
            ("the best is right", *(f"{share:.3f}" for share in shares.top_1)),
            ("one of the best three is right", *(f"{share:.3f}" for share in shares.top_3)),
        ]
        parts.append(_table(("share", *(f"depth {depth}" for depth in depths)), rows))
        parts.append(f"<p>Both right at depths 1 and 2: {shares.both:.3f}; {shares.anchors} positions.</p>")
    return "\n".join(parts)


def _losses(curve: TrainingCurve) -> str:
    with rc_context(_SVG_STYLE):
        figure = Figure(figsize=(8, 3), layout="constrained")
        axes = figure.subplots()
        parts = np.array_split(curve.losses, min(len(curve.losses), _MAX_POINTS))
        steps = np.cumsum([len(part) for part in parts])
        axes.plot(steps, [float(part.mean()) for part in parts])
        axes.set(xlabel="step", ylabel="loss (nats)", xlim=(0, None))
        axes.grid(alpha=0.3)
        return _svg(figure)


def _acceptance(curve: TrainingCurve, source: str) -> str:
    steps = [step for step, _ in curve.measured]
    with rc_context(_SVG_STYLE):
        figure = Figure(figsize=(8, 3), layout="constrained")
        pair = figure.subplots(1, 2, sharey=True)
        for axes, which, title in zip(
            pair, ("top_1", "top_3"), ("the best is right", "one of the best three is right"), strict=True
        ):
            values = np.array([getattr(measured[source], which) for _, measured in curve.measured])
            for depth, column in enumerate(values.T, 1):
                axes.plot(steps, column, marker=".", label=f"depth {depth}")
            axes.set(xlabel="step", title=title, ylim=(0, 1), xlim=(0, None))
            axes.grid(alpha=0.3)
        pair[0].set_ylabel("share of positions")
        pair[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _table(head: Sequence[str], rows: Any) -> str:
    def row(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + row(head, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"
