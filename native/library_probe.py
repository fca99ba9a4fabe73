"""Probe whether this llama.cpp library works on this machine, in a child process that may crash.

A library built for instructions that the machine only claims to have (AMX on some virtual machines) dies of a
signal in its first matrix product, and would take the program with it.
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
_TIMEOUT = 300  # seconds; some drivers compile GPU kernels for a long time on first use
_CHILD = [sys.executable, "-c", f"import sys, {__name__} as probe; probe._decode_all_types(sys.argv[1])"]


def probe(child: list[str] = _CHILD) -> str:
    """Return WORKS, WORKS_WITHOUT_REPACKING or BROKEN, by decoding a tiny model on the CPU in a child
    process.

    ``child``: the command line of that process; "repack" or "plain" is appended to it.
    """
    if _succeeds([*child, "repack"]):
        return WORKS
    return WORKS_WITHOUT_REPACKING if _succeeds([*child, "plain"]) else BROKEN


def gpu_works(child: list[str] = _CHILD) -> bool:
    """Return whether a child process can decode the tiny model on the GPU; "gpu" is appended to ``child``."""
    return _succeeds([*child, "gpu"])


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_TIMEOUT).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def check_verdict(verdict: str) -> bool:
    """Return whether weights may be repacked. Raises LibraryError if the library is BROKEN."""
    if verdict == BROKEN:
        raise LibraryError(
            "the installed llama.cpp library crashes on this machine, even without its special CPU "
            "instructions. Build it here again with `make clean setup`, or install it with "
            "`CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --force-reinstall --no-cache-dir "
            "--no-binary llama-cpp-python llama-cpp-python==0.3.36`."
        )
    return verdict == WORKS


# -- the child process --------------------------------------------------------------------------------


def _decode_all_types(mode: str) -> None:
    from .model import ALL_LAYERS
    from .quantize import quantize
    from .tiny_model import write_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        source = write_tiny_model(Path(folder) / "tiny.gguf")
        for file_type in _PROBED_TYPES:
            target = Path(folder) / f"{file_type}.gguf"
            quantize(source, target, file_type)
            _decode(target, repack=mode == "repack", gpu_layers=ALL_LAYERS if mode == "gpu" else 0)


def _decode(path: Path, *, repack: bool, gpu_layers: int) -> None:
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
