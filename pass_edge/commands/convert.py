"""pass-edge convert: lookahead embeddings from a checkpoint as a sidecar file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from pass_edge import SettingsError
from pass_edge.commands.terminal.standard_input import text

from .model_files import file_of


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--model", "-m", required=True, type=click.Path(), help="The base model: a GGUF file, or its name."
)
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The .pass.gguf file to write."
)
@click.option(
    "--tensor", type=text, help="The tensor that holds the embeddings, if CHECKPOINT has several candidates."
)
@click.option("--rows", metavar="FIRST:COUNT", help="Its rows that are lookahead embeddings, counted from 0.")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option("--training", type=text, default="", help="How it was trained: a note to store in the file.")
def convert(checkpoint: Path, model: str, output: Path, rows: str | None, force: bool, **named: Any) -> None:
    """Make a sidecar file from trained lookahead embeddings.

    CHECKPOINT is one of: a safetensors or torch file with the embeddings (L rows as wide as the model's
    embeddings); a Hugging Face model directory to whose vocabulary they were added; an adapter of parallel
    prompt decoding. From an embedding matrix, the rows after the model's vocabulary are taken, up to the last
    token of the directory's tokenizer. --rows takes others, such as tokens that replaced padding.

    \b
    pass-edge convert trained.safetensors --model model.gguf -o model.pass.gguf
    pass-edge convert finetuned/ --rows 151665:4 --model model.gguf -o model.pass.gguf
    """
    from pass_edge.convert.checkpoint import convert as convert_checkpoint

    row_range = _row_range(rows) if rows else None
    lookahead = convert_checkpoint(
        checkpoint, file_of(model).path, output, rows=row_range, overwrite=force, **named
    )
    click.echo(f"{output}: {len(lookahead)} lookahead tokens for {lookahead.base.name}")


def _row_range(text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if not match:
        raise SettingsError(f"rows {text!r} are not of the form FIRST:COUNT, as in 32000:4")
    first, count = map(int, match.groups())
    return range(first, first + count)
