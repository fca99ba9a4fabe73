"""The command line: parse, call, print. A file for each command, or for a few that are alike; what they call
lives in the other rooms and is imported late, so that --help is instant."""

from __future__ import annotations

from typing import Any

import click

from . import bench, chat, doctor, files, generate, serve, train
from .output import interrupts_kept


class Commands(click.Group):
    """Turns errors raised on purpose into one sentence and exit status 2, and loses no Ctrl-C."""

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


for _command in (
    chat.chat,
    generate.generate,
    serve.serve,
    doctor.doctor,
    bench.bench,
    train.train,
    files.convert,
    files.merge,
    files.quantize,
    files.inspect,
):
    main.add_command(_command)
