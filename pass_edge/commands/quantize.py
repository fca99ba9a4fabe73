"""pass-edge quantize: a model in another quantization type."""

from __future__ import annotations

from pathlib import Path

import click

from pass_edge.commands.terminal.output import run_beside, tensor_progress
from pass_edge.native.model import check_is_gguf, check_loads
from pass_edge.native.model_path import size_on_disk
from pass_edge.native.output_file import check_output_path, unfinished_path
from pass_edge.native.quantize import quantize as quantize_model

from .model_files import file_of


@click.command()
@click.argument("source", metavar="FILE|NAME", type=click.Path())
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("file_type", metavar="TYPE")
@click.option("--threads", "-t", type=click.IntRange(1, 512), help="CPU threads. [default: all]")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
def quantize(source: str, output: Path, file_type: str, threads: int | None, force: bool) -> None:
    """Write a model in another quantization type to OUTPUT. The model is given as for -m.

    TYPE is one of llama.cpp's, such as Q4_0, Q8_0 or Q4_K_M; llama.cpp's quantizer writes it. Drafting
    gains most in types with a fast kernel for several tokens, such as Q4_0.

    \b
    pass-edge quantize model.Q8_0.gguf model.Q4_0.gguf Q4_0
    pass-edge quantize Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 model.Q4_0.gguf Q4_0
    """
    model = file_of(source).path
    check_output_path(output, force, model)
    check_loads(check_is_gguf(model))
    with tensor_progress("quantizing") as progress:
        run_beside(
            lambda: quantize_model(model, output, file_type, threads=threads or 0, progress=progress),
            unfinished_path(output),
        )
    click.echo(f"{output}: {output.stat().st_size / 2**20:.0f} MiB, was {size_on_disk(model) / 2**20:.0f}")
