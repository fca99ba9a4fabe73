"""What a CUDA build needs of this machine: NVIDIA GPUs, cuBLAS and the CUDA runtime."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .programs import exit_status, output


def nvidia_gpus() -> tuple[str, ...]:
    """Return the compute capability of each NVIDIA GPU here; "" where the driver does not tell it."""
    gpus = output(["nvidia-smi", "-L"])
    count = sum(line.startswith("GPU ") for line in gpus.splitlines())
    capabilities = output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]).split()
    return tuple(capabilities) if len(capabilities) == count else ("",) * count


def cublas(nvcc: str) -> tuple[str, ...] | None:
    """Return CMake arguments that locate cuBLAS. Small toolkits lack it, but PyTorch installs NVIDIA's Python
    package of it."""
    if nvcc_links(nvcc, "cublas", "#include <cublas_v2.h>\n"):
        return ()
    release = re.search(r"release (\d+)", output([nvcc, "--version"]))
    print_folders = "import nvidia; print(*nvidia.__path__, sep='\\n')"
    for python in (sys.executable, "python3"):
        for folder in output([python, "-c", print_folders]).splitlines():
            for library in Path(folder).glob(f"*/lib/libcublas.so.{release[1] if release else '*'}"):
                return (
                    f"-DCUDA_cublas_LIBRARY={library}",
                    f"-DCUDA_cublasLt_LIBRARY={str(library).replace('libcublas', 'libcublasLt')}",
                    f"-DCMAKE_CUDA_FLAGS=-I{library.parent.parent / 'include'}",
                )
    return None


def cudart(nvcc: str) -> str:
    """Return the folder from which nvcc links the CUDA runtime; "" if unknown."""
    steps = output([nvcc, "--dryrun", "-x", "cu", os.devnull], stderr=subprocess.STDOUT)
    folders = re.findall(r'"-L([^"]+)"', steps)
    return next(
        (str(Path(folder).resolve()) for folder in folders if list(Path(folder).glob("libcudart.so*"))), ""
    )


def nvcc_links(nvcc: str, library: str, header: str = "") -> bool:
    """Return whether nvcc can compile a program with `header` and link it with `library`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "links.c")
        source.write_text(f"{header}int main(void) {{ return 0; }}\n")
        return exit_status([nvcc, str(source), f"-l{library}", "-o", str(source.with_suffix(""))]) == 0
