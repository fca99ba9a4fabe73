"""Time of a step as context, draft tree and vocabulary grow; and the memory that drafting adds.

    python benchmarks/growth.py --model MODEL.gguf

Measures milliseconds of a step in llama.cpp, in planning and drafting, and in the rest (choosing tokens,
verifying, committing). Trees are chains of tokens that are nearly always wrong, so a step yields one token.
Large vocabularies are measured on random models that are otherwise small, so that the host's share is
visible.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from answers import table, table_row

from pass_edge import Engine, Sampling, Settings
from pass_edge.drafting.tree import Draft
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.sampling.sampler import Sampler

STEPS = 40
GREEDY, SAMPLED = Sampling(temperature=0), Sampling(temperature=0.8, seed=1)
# runs in a process of its own, so that the resident memory is the engine's
_RESIDENT = """
import sys
from pass_edge import Engine, Sampling, Settings
from pass_edge.native.process_memory import resident_bytes
with Engine(sys.argv[1], settings=Settings(schedule=sys.argv[2])) as engine:
    engine.stream([5, 6, 7, 8] * 256, sampling=Sampling(temperature=0), max_tokens=256).run()
    print(resident_bytes())
"""


def row(name: str, engine: Engine, depth: int, nodes: int, sampling: Sampling) -> str:
    """Return a row of the table: medians over steps after ``depth`` tokens with trees of ``nodes``."""
    session, sampler = engine.session, Sampler(sampling)
    session.prefill(np.random.default_rng(0).integers(10, engine.base.n_vocab, depth).tolist())
    parts = []
    for _ in range(STEPS):
        assert session.root is not None
        tree = Draft.chain([7] * (nodes - 1)).below(session.root)
        start = time.perf_counter()
        step = session.decode_tree(tree, sampler)
        total = time.perf_counter() - start
        parts.append((step.model_seconds, step.drafting_seconds, total))
    model, drafting, total = (1e3 * statistics.median(column) for column in zip(*parts, strict=True))
    rest = total - model - drafting
    return table_row([name, *(f"{ms:.2f}" for ms in (model, drafting, rest)), f"{1 - model / total:.1%}"])


def resident(model: Path, schedule: str) -> int:
    """Return the resident bytes of a process after an answer."""
    done = subprocess.run(
        [sys.executable, "-c", _RESIDENT, str(model), schedule], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A GGUF file.")
def main(model: Path) -> None:
    head = ["step", "llama.cpp ms", "planning, drafting ms", "the rest ms", "outside llama.cpp"]
    click.echo(table(head, []))
    with Engine(model, settings=Settings(context_size=8192)) as engine:
        for depth in (128, 512, 2048, 8000):
            click.echo(row(f"{depth} tokens before", engine, depth, 1, GREEDY))
        for nodes in (2, 4, 8, 16, 32):
            if nodes <= engine.calibration.widest_step:
                click.echo(row(f"128 before, tree of {nodes}", engine, 128, nodes, GREEDY))
        click.echo(row("128 before, temperature 0.8", engine, 128, 1, SAMPLED))
    with tempfile.TemporaryDirectory() as folder:
        for n_vocab in (32_768, 131_072, 262_144):
            tiny = write_tiny_model(Path(folder) / f"{n_vocab}.gguf", n_vocab=n_vocab, n_embd=64, n_ff=64)
            with Engine(tiny, lookahead=None) as engine:
                for name, sampling in (("greedy", GREEDY), ("temperature 0.8", SAMPLED)):
                    for nodes in (1, 8):
                        label = f"vocabulary of {n_vocab:,}, {name}, tree of {nodes}"
                        click.echo(row(label, engine, 64, nodes, sampling))
    plain, auto = (resident(model, schedule) for schedule in ("plain", "auto"))
    click.echo(
        f"\nResident memory: plain {plain / 2**20:.0f} MiB, auto {auto / 2**20:.0f} MiB "
        f"({auto / plain - 1:+.1%})."
    )


if __name__ == "__main__":
    main()
