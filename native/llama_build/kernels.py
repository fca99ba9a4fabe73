"""What we add to llama.cpp: kernels for quantized weights and attention, and variants of its CPU backend."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from .machine import Machine, cpu_name_and_flags

KERNELS = "-DPASS_EDGE_KERNELS=ON"
"""Build our kernels into the CPU backend."""

_CPU_FLAGS = frozenset({"avx2", "fma", "f16c"})

_NATIVE = Path(__file__).resolve().parents[1]


def choose_kernels(machine: Machine) -> tuple[tuple[str, ...], str]:
    """Use our kernels for quantized weights and attention if they can run here."""
    if not _can_run(machine.system, machine.cpu_flags):
        return (), "kernels: llama.cpp's; ours need Linux and AVX2"
    return (KERNELS,), f"kernels: ours (version {kernels_version()})"


def _can_run(system: str, cpu_flags: frozenset[str]) -> bool:
    return system == "Linux" and cpu_flags >= _CPU_FLAGS


def can_run_kernels() -> bool:
    """Return whether our kernels can run on this machine."""
    return _can_run(platform.system(), cpu_name_and_flags()[1])


def kernels_version() -> str:
    """Return a digest of all that we add to llama.cpp."""
    folders = (_NATIVE / "kernels", _NATIVE / "variants")
    files = [_NATIVE / "build.cmake", *(path for folder in folders for path in sorted(folder.iterdir()))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]
