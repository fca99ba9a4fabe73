"""Is this llama.cpp library safe to use here? A child process finds out, so that a crash stays there.

A library built for instructions that the machine only claims to have (AMX on some virtual machines)
dies of a signal in its first matrix product, and takes the program with it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from .errors import LibraryError

WORKS, WORKS_WITHOUT_REPACKING, BROKEN = "works", "works without repacking", "broken"
_PROBED_TYPES = ("Q4_0", "Q8_0", "Q4_K_M")
_LONGEST_PROBE = 300  # seconds; some drivers compile what runs on a GPU for long, the first time
_CHILD = [sys.executable, "-c", f"import sys, {__name__} as probe; probe._child(sys.argv[1])"]


def probe(child: list[str] = _CHILD) -> str:
    """WORKS, WORKS_WITHOUT_REPACKING or BROKEN, found by decoding a tiny model on the CPU in a child process.
    ``child`` is its command line; it gets "repack" or "plain" as its last argument."""
    if _survives([*child, "repack"]):
        return WORKS
    return WORKS_WITHOUT_REPACKING if _survives([*child, "plain"]) else BROKEN


def gpu_works(child: list[str] = _CHILD) -> bool:
    """Whether the tiny model can be decoded on the GPU; the child gets "gpu" as its last argument."""
    return _survives([*child, "gpu"])


def _survives(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_LONGEST_PROBE).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def check_verdict(verdict: str) -> bool:
    """Whether weights may be repacked; raises LibraryError for a library that cannot be used."""
    if verdict == BROKEN:
        raise LibraryError(
            "the installed llama.cpp library crashes on this machine, even without its special CPU "
            "instructions. Build it here again with `make clean setup`, or install it with "
            "`CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --force-reinstall --no-cache-dir "
            "--no-binary llama-cpp-python llama-cpp-python==0.3.36`."
        )
    return verdict == WORKS


def _child(how: str) -> None:
    from .model import ALL_LAYERS
    from .quantize import quantize
    from .tiny_model import write_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        source = write_tiny_model(Path(folder) / "tiny.gguf")
        for file_type in _PROBED_TYPES:
            target = Path(folder) / f"{file_type}.gguf"
            quantize(source, target, file_type)
            _decode_a_little(target, repack=how == "repack", gpu_layers=ALL_LAYERS if how == "gpu" else 0)


def _decode_a_little(path: Path, *, repack: bool, gpu_layers: int) -> None:
    from .batch import rows_of_sequence
    from .context import Context, ContextSettings
    from .model import Model

    with (
        Model(path, repack=repack, gpu_layers=gpu_layers) as model,
        Context(model, ContextSettings(cells=256, flash_attention=None if gpu_layers else True)) as context,
    ):
        position = 0
        for count in (1, 2, 4, 8, 32, 1):
            rows = rows_of_sequence(position, count, outputs=1)
            context.decode_tokens(rows, np.arange(count, dtype=np.int32))
            assert np.isfinite(context.logits(1)).all()
            position += count
