"""pass-edge help: the help of a command, as --help shows it."""

from __future__ import annotations

import click

from .advice import for_unknown_command


@click.command()
@click.argument("command", metavar="[COMMAND]", required=False)
@click.pass_context
def help(context: click.Context, command: str | None) -> None:
    """Explain COMMAND, or list all commands.

    \b
    pass-edge help generate
    """
    parent = context.parent
    assert parent is not None
    group = parent.command
    assert isinstance(group, click.Group)
    if command is None:
        click.echo(parent.get_help())
        return
    found = group.get_command(parent, command)
    if found is None:
        raise click.UsageError(for_unknown_command([command], group.list_commands(parent)), parent)
    click.echo(found.get_help(click.Context(found, parent, command)))
