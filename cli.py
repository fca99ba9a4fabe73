"""The command line: `pass-edge`, `python -m pass_edge`, and `python cli.py` in a checkout.

Each command has a module of its own in pass_edge/commands, which is imported when the command is used, so
that the others cost no time. A command parses its options, calls the library, and prints.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from pass_edge.commands.terminal.output import discard, has_styles, open_streams, redeliver_interrupts
from pass_edge.native.errors import PassEdgeError

_COMMANDS = (
    "chat",
    "generate",
    "serve",
    "doctor",
    "setup",
    "bench",
    "train",
    "convert",
    "merge",
    "quantize",
    "inspect",
)
"""The commands, in the order of --help: `name` is the function `name` in pass_edge/commands/name.py."""


class LazyGroup(click.Group):
    """Imports a command when it is used. Reports a PassEdgeError, and output that cannot be written, as one
    sentence, with exit status 2; ends quietly where a pipe is closed."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        open_streams()
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            discard(sys.stdout)
            place = error.filename or "the output"
            click.echo(f"Error: {place} cannot be written or read: {error.strerror}", err=True)
            sys.exit(2)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        context = super().make_context(*arguments, **options)
        context.color = None if has_styles() else False
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"pass_edge.commands.{name}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with redeliver_interrupts():
                return super().invoke(ctx)
        except PassEdgeError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="pass-edge")
def main() -> None:
    """Decode a GGUF model faster, without changing its text (Parallel Speculative Sampling).

    \b
    pass-edge chat                              chat with the default model
    pass-edge generate "Why is the sky blue?"   answer one question
    pass-edge serve                             serve the model by OpenAI's protocol
    pass-edge doctor                            check this machine, and suggest fixes
    pass-edge setup                             build our kernels for this machine
    pass-edge bench                             measure what drafting gains here

    `pass-edge COMMAND --help` explains a command and its options.
    """


if __name__ == "__main__":
    main(prog_name="pass-edge")
