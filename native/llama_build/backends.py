"""llama.cpp's backends: which one suits a machine, what another one lacks, and their CMake arguments."""

from __future__ import annotations

from .machine import Machine

BACKENDS = ("cpu", "cuda", "metal", "vulkan")


def choose_backend(machine: Machine, requested: str | None) -> tuple[str, str]:
    """Return the backend to build and the reason. Raises ValueError if `requested` cannot be built here."""
    if requested:
        _check(requested, machine)
        return requested, f"backend {requested}: as asked for"
    if machine.system == "Darwin" and machine.machine == "arm64":
        return "metal", "backend metal: this is macOS on Apple silicon"
    if not machine.cuda_missing:
        return "cuda", f"backend cuda: an NVIDIA GPU and {machine.nvcc} are here"
    if machine.system != "Darwin" and not machine.vulkan_missing:
        return "vulkan", "backend vulkan: a device is here, and all that the build needs"
    if machine.gpus:
        reason = f"an NVIDIA GPU is here, but no {machine.cuda_missing}"
        return "cpu", f"backend cpu: {reason}; install the CUDA toolkit to use it"
    return "cpu", "backend cpu: no GPU that llama.cpp would be built for was found"


def availability(backend: str, machine: Machine) -> str:
    """Return how another backend could be built here, or what it needs."""
    missing = {
        "cpu": "",
        "cuda": machine.cuda_missing,
        "metal": "" if machine.system == "Darwin" else "macOS",
        "vulkan": machine.vulkan_missing,
    }[backend]
    return f"needs {missing}" if missing else f"possible too: pass-edge setup --backend {backend}"


def _check(backend: str, machine: Machine) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "metal" and machine.system != "Darwin":
        raise ValueError("the metal backend needs macOS; name no backend, or another")
    if backend == "cuda" and not machine.nvcc:
        raise ValueError("the cuda backend needs nvcc, which was not found; install the CUDA toolkit")
    if backend == "cuda" and machine.cublas is None:
        raise ValueError(
            f"the cuda backend needs cuBLAS, which {machine.nvcc} does not find; install the whole CUDA "
            "toolkit, or cuBLAS alone: python3 -m pip install nvidia-cublas"
        )
    if backend == "vulkan" and "glslc" in machine.vulkan_build_missing:  # CMake may find the rest elsewhere
        raise ValueError(
            f"the vulkan backend lacks {', '.join(machine.vulkan_build_missing)}; install the Vulkan SDK, or "
            "on Debian and Ubuntu: sudo apt install glslc libvulkan-dev spirv-headers vulkan-tools"
        )


def backend_args(backend: str, machine: Machine) -> tuple[str, ...]:
    """Return the CMake arguments that build `backend`."""
    if backend == "cpu":
        return ()  # llama.cpp always builds it (on macOS together with Metal, which cannot be left out)
    if backend != "cuda":
        return (f"-DGGML_{backend.upper()}=ON",)
    return (
        "-DGGML_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={machine.nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={_cuda_architectures(machine.gpus)}",
        *(machine.cublas or ()),
        # CMake leaves nvcc's own folders out of the rpath, and the system's loader need not know them
        *((f"-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-rpath,{machine.cudart}",) if machine.cudart else ()),
        # virtual memory links the driver, for which only a toolkit's stub can stand in
        *(() if machine.libcuda else ("-DGGML_CUDA_NO_VMM=ON",)),
    )


def _cuda_architectures(gpus: tuple[str, ...]) -> str:
    # By number if the driver tells it: CMake before 3.24, which some systems still ship, knows no "native".
    if not gpus or not all(gpus):
        return "native"
    return ";".join(f"{gpu.replace('.', '')}-real" for gpu in sorted(set(gpus)))
