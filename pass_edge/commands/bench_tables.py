"""The tables that `pass-edge bench` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import shorten
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pass_edge.commands.terminal.output import console

from .bench_comparison import Comparison, CostCurve
from .bench_report import COLUMNS, cells, headline, verdict

_PROMPT_WIDTH = 16  # makes lines of 80 characters


def print_tables(about: Mapping[str, Any], prompts: Sequence[str], comparison: Comparison) -> None:
    """Print speeds, costs of passes, where the time went, and what follows."""
    page = console()
    page.print(_speeds(headline(about), prompts, comparison))
    if comparison.curve:
        page.print(_costs(comparison.curve))
    page.print(_times(comparison))
    medians = comparison.medians
    if medians.stock_ratio:
        ratio = f"{medians.stock_ratio:.2f}"
        click.echo(f"PaSS Edge is {ratio} times as fast as stock llama.cpp (median of the ratios).")
    click.echo(f"Drafting is {medians.ratio:.2f} times as fast as plain decoding.")
    click.secho(verdict(comparison), fg="red" if comparison.different else None)


def _speeds(title: str, prompts: Sequence[str], comparison: Comparison) -> Table:
    table = _table(title, "prompt", *(title for title, _ in COLUMNS.values()))
    for number, (prompt, pair) in enumerate(zip(prompts, comparison.pairs, strict=False), 1):
        name = shorten(f"{number}. {prompt}", _PROMPT_WIDTH, placeholder=" …")
        table.add_row(escape(name), *cells(asdict(pair.figures)))
    table.add_section()
    table.add_row("median", *cells(asdict(comparison.medians)), style="bold")
    return table


def _costs(curve: CostCurve) -> Table:
    table = _table("milliseconds of a pass (measured once, then remembered)", "rows", *map(str, curve.rows))
    for depth, milliseconds in zip(curve.depths, curve.milliseconds, strict=True):
        table.add_row(f"after {depth:,} tokens", *(f"{value:.1f}" for value in milliseconds))
    return table


def _times(comparison: Comparison) -> Table:
    table = _table(
        "where the time goes", "", "llama.cpp", "planning,\ndrafting", "verifying,\ncommitting, text"
    )
    for name, shares in comparison.time.items():
        table.add_row(name, f"{shares.llama_cpp:.1%}", f"{shares.drafting:.1%}", f"{shares.rest:.1%}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first, vertical="bottom")
    for title in others:
        table.add_column(title, justify="right")
    return table
