"""pass-edge convert, merge, quantize and inspect: what is done to files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pass_edge.commands.terminal.output import quiet, run_beside, tensor_progress


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--model", "-m", required=True, type=click.Path(path_type=Path), help="The base GGUF.")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The .pass.gguf to write."
)
@click.option("--tensor", help="The tensor that holds the embeddings, where that is not clear.")
@click.option("--rows", metavar="FIRST:COUNT", help="Its rows that are lookahead, counted from 0.")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option("--training", default="", help="How it was trained, for people.")
def convert(checkpoint: Path, model: Path, output: Path, rows: str | None, force: bool, **named: Any) -> None:
    """Write the lookahead embeddings in CHECKPOINT as a sidecar for a model.

    CHECKPOINT is a safetensors or torch file that holds them (L rows as wide as the model's embeddings), a
    Hugging Face model directory whose vocabulary they were added to, or a parallel-prompt-decoding adapter.
    Of an embedding matrix, the rows behind the model's vocabulary are taken, as far as the directory's
    tokenizer has tokens for them; --rows names others, such as tokens that took the place of padding.

    \b
    pass-edge convert trained.safetensors --model model.gguf -o model.pass.gguf
    pass-edge convert finetuned/ --rows 151665:4 --model model.gguf -o model.pass.gguf
    """
    from pass_edge.convert.checkpoint import convert as convert_checkpoint

    wanted = _row_range(rows) if rows else None
    lookahead = convert_checkpoint(checkpoint, model, output, rows=wanted, overwrite=force, **named)
    click.echo(f"{output}: {len(lookahead)} lookahead tokens for {lookahead.base.name}")


def _row_range(text: str) -> range:
    from pass_edge import SettingsError

    if not (found := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)):
        raise SettingsError(f"rows {text!r} are not of the form FIRST:COUNT, as in 32000:4")
    first, count = map(int, found.groups())
    return range(first, first + count)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("lookahead", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="The GGUF to write.")
@click.option("--embedding-type", metavar="TYPE", help="Store the embedding matrix as f16, q8_0 …")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
def merge(model: Path, lookahead: Path, output: Path, embedding_type: str | None, force: bool) -> None:
    """Write MODEL and its LOOKAHEAD into one GGUF, to ship in an app.

    Other llama.cpp programs run it as the plain model it was. It grows by a copy of the embedding matrix
    if the model has no output head of its own; a sidecar beside the model costs nothing of the kind.

    \b
    pass-edge merge model.gguf model.pass.gguf -o merged.gguf
    """
    from pass_edge.convert.merge import merge as merge_files

    with tensor_progress("merging") as progress:
        warnings = merge_files(
            model, lookahead, output, embedding_type=embedding_type, overwrite=force, progress=progress
        )
    for warning in warnings:
        quiet(warning)
    click.echo(f"{output}: {output.stat().st_size / 2**20:.0f} MiB, was {model.stat().st_size / 2**20:.0f}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("file_type", metavar="TYPE")
@click.option("--threads", "-t", type=click.IntRange(1, 512), help="CPU threads. [default: all]")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
def quantize(source: Path, output: Path, file_type: str, threads: int | None, force: bool) -> None:
    """Write a model in another TYPE: Q4_0, Q8_0, Q4_K_M … (llama.cpp's quantizer).

    Drafting gains most in types with a fast kernel for several tokens, such as Q4_0.

    \b
    pass-edge quantize model.Q4_1.gguf model.Q4_0.gguf Q4_0
    """
    from pass_edge.native.model import check_is_gguf, check_loads
    from pass_edge.native.output_file import check_output_path, unfinished_path
    from pass_edge.native.quantize import quantize as quantize_model

    check_output_path(output, force, source)
    check_loads(check_is_gguf(source))
    with tensor_progress("quantizing") as progress:
        run_beside(
            lambda: quantize_model(source, output, file_type, threads=threads or 0, progress=progress),
            unfinished_path(output),
        )
    click.echo(f"{output}: {output.stat().st_size / 2**20:.0f} MiB, was {source.stat().st_size / 2**20:.0f}")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object: files, and pairs that fit or not.")
def inspect(files: tuple[Path, ...], as_json: bool) -> None:
    """Tell what GGUF FILES are, and which lookahead among them fits which model.

    \b
    pass-edge inspect model.gguf model.pass.gguf
    """
    from pass_edge.convert.inspection import inspect as inspect_files

    report = inspect_files(files)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for file in report["files"]:
        click.echo(file["file"])
        for key, value in _flat(file):
            click.echo(f"  {key + ':':<26} {value}")
    for pair in report["pairs"]:
        click.echo(f"{pair['lookahead']} {'fits' if pair['fits'] else 'does not fit'} {pair['model']}")
        for reason in pair["why"]:
            click.echo(f"  {reason}")


def _flat(report: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in report.items():
        if isinstance(value, dict):
            yield from ((f"{key} {inner}", deeper) for inner, deeper in _flat(value))
        elif key != "file":
            yield key.replace("_", " "), "none" if value in (None, "", []) else value
