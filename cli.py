"""The command line: `pass-edge`, `python -m pass_edge`, and `python cli.py` in a checkout.

Each command has a module of its own in pass_edge/commands, which is imported when the command is used, so
that the others cost no time. A command parses its options, calls the library, and prints.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pass_edge.commands import advice
from pass_edge.commands.terminal.output import discard, has_styles, open_streams, redeliver_interrupts
from pass_edge.native.errors import PassEdgeError

_COMMANDS = (
    "chat",
    "generate",
    "serve",
    "models",
    "lookahead",
    "doctor",
    "setup",
    "bench",
    "train",
    "convert",
    "merge",
    "quantize",
    "inspect",
    "help",
    "completion",
)
"""The commands, in the order of --help: `name` is the function `name` in pass_edge/commands/name.py."""


class LazyGroup(click.Group):
    """Imports a command when it is used. Reports a PassEdgeError, and output that cannot be written, as one
    sentence, with exit status 2; ends quietly where a pipe is closed. Says what to type instead of a wrong
    command line."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        open_streams()
        try:
            return super().main(*arguments, **options)
        except PassEdgeError as error:
            click.echo(f"Error: {error}", err=True)
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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from pass_edge.commands.chat import chat

            raise _with_advice(error, advice.for_unknown_option(error, words, chat)) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if ctx.resilient_parsing or args[0].startswith("-") or args[0] in _COMMANDS:
            return super().resolve_command(ctx, args)
        raise click.UsageError(advice.for_unknown_command(args, _COMMANDS), ctx)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with redeliver_interrupts():
                return super().invoke(ctx)
        except click.UsageError as error:
            raise _with_advice(error, advice.for_unexpected_argument(error)) from None


def _with_advice(error: click.UsageError, sentence: str) -> click.UsageError:
    return click.UsageError(f"{error.format_message()}{sentence}", error.ctx) if sentence else error


def _print_version(context: click.Context, _option: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        from pass_edge.commands.version import version_lines

        click.echo(version_lines())
        context.exit()


def _documentation() -> str:
    pages = Path(__file__).resolve().parent / "docs" / "index.md"
    return str(pages) if pages.exists() else "the folder docs/ of the repository"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Documentation: {_documentation()}",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the versions of PaSS Edge, llama.cpp and Python, and exit.",
)
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
