"""What passes cost with our kernels and with llama.cpp's own.

    python benchmarks/kernels.py --model MODEL.gguf

Milliseconds of passes over 1, 2, … 32 tokens behind 128 and 1,024 others, and how fast a prompt of 1,024
tokens is read. Each is measured in processes of its own, in turn, because PASS_EDGE_KERNELS is read once;
medians of the rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
from answers import table
from rich.progress import track

from pass_edge import Settings
from pass_edge.calibration import calibrate
from pass_edge.costs import pass_times, read_text
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.library import kernels
from pass_edge.native.model import Model

WIDTHS = (1, 2, 3, 4, 6, 8, 16, 32)
DEPTHS = (128, 1024)
OURS, THEIRS = "ours", "llama.cpp's"


def measure(path: Path) -> list[list[float]]:
    """By depth: seconds of passes of all widths; behind these, tokens/s of reading the prompt."""
    calibration = calibrate(path, Settings(), lambda _: None)
    settings = ContextSettings(cells=2048, cache_type_k="q8_0", cache_type_v="f16")
    with Model(path, repack=calibration.repack) as model, Context(model, settings) as context:
        began = time.perf_counter()
        read_text(context, 0, DEPTHS[-1])
        pace = DEPTHS[-1] / (time.perf_counter() - began)
        found = []
        for depth in reversed(DEPTHS):
            context.remove(0, depth)
            found.append(pass_times(context, depth, list(WIDTHS), repeats=12).tolist())
        return [*reversed(found), [pace]]


def in_a_process(path: Path, whose: str) -> list[list[float]]:
    """What `measure` finds in a process that uses the kernels of one or the other."""
    environment = {**os.environ, "PASS_EDGE_KERNELS": str(int(whose == OURS))}
    command = [sys.executable, __file__, "--model", str(path), "--here"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A GGUF file.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--here", is_flag=True, hidden=True, help="Measure in this process, and print JSON.")
def main(model: Path, rounds: int, here: bool) -> None:
    if here:
        click.echo(json.dumps(measure(model)))
        return
    if not kernels():
        raise click.ClickException("this llama.cpp was built without our kernels, or PASS_EDGE_KERNELS is 0")
    found: dict[str, list[list[list[float]]]] = {OURS: [], THEIRS: []}
    for _ in track(range(rounds), "measuring"):
        for whose, results in found.items():
            results.append(in_a_process(model, whose))
    rows = []
    for i, depth in enumerate(DEPTHS):
        for whose, results in found.items():
            seconds = np.median([result[i] for result in results], axis=0)
            cells = [f"{1e3 * one:.1f} ({one / seconds[0]:.2f})" for one in seconds]
            rows.append([f"{whose}, {depth} tokens before", *cells])
    click.echo(f"{model.name}, {kernels()}; ms of a pass over so many tokens, and times that over one\n")
    click.echo(table(["kernels", *map(str, WIDTHS)], rows))
    for whose, results in found.items():
        paces = [result[-1][0] for result in results]
        click.echo(f"\nA prompt of {DEPTHS[-1]} tokens, {whose}: {np.median(paces):.0f} tokens/s")


if __name__ == "__main__":
    main()
