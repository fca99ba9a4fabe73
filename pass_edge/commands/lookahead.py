"""pass-edge lookahead: the lookahead files that models find by themselves."""

from __future__ import annotations

from pathlib import Path

import click

from pass_edge import PassEdgeError, read_lookahead
from pass_edge.commands.terminal.standard_input import confirm_removal
from pass_edge.models.sidecars import add_sidecar, own_sidecar, own_sidecars, shipped_sidecars


@click.group()
def lookahead() -> None:
    """Add, list and remove lookahead files.

    A lookahead file (.pass.gguf) beside a model is found by its name. One that is added here is found by
    every model that it fits, wherever that lies.

    \b
    pass-edge lookahead add mine.pass.gguf
    pass-edge lookahead list
    pass-edge lookahead rm mine
    """


@lookahead.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace one of the same name.")
def add(file: Path, force: bool) -> None:
    """Copy FILE to where models find it.

    \b
    pass-edge lookahead add mine.pass.gguf
    """
    click.echo(add_sidecar(file, overwrite=force))


@lookahead.command(name="list")
def list_files() -> None:
    """List the files that were added, and those that come with pass-edge: name, model, place."""
    for path in [*own_sidecars(), *shipped_sidecars()]:
        try:
            made_for = read_lookahead(path).base.name
        except PassEdgeError as error:
            made_for = str(error)
        click.echo("\t".join((path.name.removesuffix(".pass.gguf"), made_for, str(path))))


@lookahead.command()
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(name: str, yes: bool) -> None:
    """Remove the added file NAME.

    \b
    pass-edge lookahead rm mine
    """
    path = own_sidecar(name)
    if not yes:
        confirm_removal(str(path))
    path.unlink()
    click.echo(f"{path} is removed")
