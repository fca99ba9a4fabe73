"""The command line: `pass-edge`, `python -m pass_edge`, and `python cli.py` in a checkout.

Each command is a function of pass_edge/commands, imported when it is asked for: so starting one is quick. A
command parses, calls the rooms below it, and prints.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from pass_edge.commands.terminal.output import interrupts_kept

_COMMANDS = {
    "chat": "chat",
    "generate": "generate",
    "serve": "serve",
    "doctor": "doctor",
    "bench": "bench",
    "train": "train",
    "convert": "files",
    "merge": "files",
    "quantize": "files",
    "inspect": "files",
}
"""Each command's module in pass_edge.commands."""


class Commands(click.Group):
    """Import a command when it is used, report a PassEdgeError in one sentence with exit status 2, lose no
    Ctrl-C."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"pass_edge.commands.{_COMMANDS[name]}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        from pass_edge.native.errors import PassEdgeError

        try:
            with interrupts_kept():
                return super().invoke(ctx)
        except PassEdgeError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pass-edge")
def main() -> None:
    """Decode a GGUF model faster without changing its text (Parallel Speculative Sampling).

    \b
    pass-edge chat                              chat with the default model
    pass-edge generate "Why is the sky blue?"   answer once
    pass-edge serve                             the model behind OpenAI's protocol
    pass-edge doctor                            what this machine can do, and what is wrong
    pass-edge bench                             what drafting gains on it
    """


if __name__ == "__main__":
    main(prog_name="pass-edge")
