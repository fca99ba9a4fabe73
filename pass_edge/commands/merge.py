"""pass-edge merge: a model and its lookahead as one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from pass_edge.commands.terminal.output import quiet, tensor_progress
from pass_edge.native.model_path import size_on_disk

from .model_files import file_of


@click.command()
@click.argument("model", metavar="FILE|NAME", type=click.Path())
@click.argument("lookahead", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="The GGUF to write.")
@click.option("--embedding-type", metavar="TYPE", help="Store the embedding matrix as f16, q8_0 …")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
def merge(model: str, lookahead: Path, output: Path, embedding_type: str | None, force: bool) -> None:
    """Merge a model and its LOOKAHEAD into one GGUF file.

    The model is given as for -m; of a split one, give the first piece.

    One file is easier to ship in an app. Other llama.cpp programs run it as the plain model. If the model
    has no output head of its own, the file grows by a copy of the embedding matrix; a sidecar file beside
    the model avoids that.

    \b
    pass-edge merge model.gguf model.pass.gguf -o merged.gguf
    """
    from pass_edge.convert.merge import merge as merge_files

    path = file_of(model).path
    with tensor_progress("merging") as progress:
        warnings = merge_files(
            path, lookahead, output, embedding_type=embedding_type, overwrite=force, progress=progress
        )
    for warning in warnings:
        quiet(warning)
    click.echo(f"{output}: {output.stat().st_size / 2**20:.0f} MiB, was {size_on_disk(path) / 2**20:.0f}")
