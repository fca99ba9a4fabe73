"""The first run: a short list of models to choose from, for a user who has named none."""

from __future__ import annotations

import sys

import click

from pass_edge.commands.terminal.output import size_text
from pass_edge.models.default import installed_default
from pass_edge.models.description import describe
from pass_edge.models.local_stores import stored_models
from pass_edge.models.suggestions import SUGGESTIONS, fits
from pass_edge.native.available_memory import available_memory

_MOST_SHOWN = 8
"""Most models of this disk in the list."""


def offered_model(model: str | None) -> str | None:
    """Return ``model``, or the one that the user chooses: in a terminal, if none is named and the default
    model is not installed. Elsewhere, None stays None."""
    if model or installed_default() or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return model
    memory = available_memory()
    here = [each for each in map(describe, stored_models()) if not each.problem]
    names = [each.name for each in here[:_MOST_SHOWN]]
    rows = [f"{each.name}, {_need(each.size, memory)}" for each in here[:_MOST_SHOWN]]
    names += [each.name for each in SUGGESTIONS]
    rows += [f"{each.name}, {each.what}; about {_need(each.n_bytes, memory)}" for each in SUGGESTIONS]
    click.echo("Which model? The default one is not installed.", err=True)
    for number, row in enumerate(rows, 1):
        if number == 1 and here:
            click.secho("On this disk:", bold=True, err=True)
        if number == len(rows) - len(SUGGESTIONS) + 1:
            click.secho("To download from Hugging Face's hub:", bold=True, err=True)
        click.echo(f"{number:4}  {row}", err=True)
    choice = click.prompt("Number", type=click.IntRange(1, len(rows)), err=True)
    click.echo(f"Next time: pass-edge chat -m {names[choice - 1]}", err=True)
    return names[choice - 1]


def _need(n_bytes: int, memory: int) -> str:
    """Return a size, and whether it fits in ``memory`` bytes, in words."""
    free = "fits" if fits(n_bytes, memory) else f"too large for the {size_text(memory)} of free memory"
    return f"{size_text(n_bytes)}, {free}"
