"""pass-edge completion: what makes a shell complete the commands, their options, and names of files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands and options.

    Load it in each new shell, or keep it where the shell looks for such scripts.

    \b
    eval "$(pass-edge completion bash)"     # in ~/.bashrc
    eval "$(pass-edge completion zsh)"      # in ~/.zshrc
    pass-edge completion fish >~/.config/fish/completions/pass-edge.fish
    """
    script = get_completion_class(shell)
    assert script is not None
    assert context.parent is not None
    click.echo(script(context.parent.command, {}, "pass-edge", "_PASS_EDGE_COMPLETE").source())
