"""The build plan: the CMake arguments of llama.cpp, with the reasons for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .amx import Amx, amx_works, choose_amx
from .backends import BACKENDS, availability, backend_args, choose_backend
from .compiler import flags_accepted
from .kernels import KERNELS, choose_kernels, kernels_version
from .machine import Machine, inspect_machine

LIBRARY_ONLY = (
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
"""Build llama.cpp's library and nothing else."""

_HERE_ONLY = ("-DCMAKE_CUDA_ARCHITECTURES=", "-DCMAKE_SHARED_LINKER_FLAGS=")
"""Arguments that make a build fit this machine: its GPUs, and its folder of the CUDA runtime."""


@dataclass(frozen=True)
class BuildPlan:
    """How llama.cpp is built here: the backend, the CMake arguments, and the reasons. `others`: for each
    other backend, that it is possible too, or what it needs."""

    backend: str
    cmake_args: tuple[str, ...]
    amx: Amx
    reasons: tuple[str, ...]
    others: tuple[str, ...] = ()
    tag: str = ""
    """The wheel's build tag, for a release: it names the backend and the version of our kernels."""


def plan_here(backend: str | None = None) -> BuildPlan:
    """Return the build plan for this machine. `backend`: build this one instead of the best one."""
    return decide(inspect_machine(), backend, amx_works, flags_accepted)


def plan_release(backend: str | None = None) -> BuildPlan:
    """Return the plan for a wheel to be published. `backend`: build this one too, beside the CPU's."""
    return decide_release(inspect_machine(), backend)


def decide(
    machine: Machine,
    backend: str | None,
    amx_works: Callable[[], bool],
    flags_accepted: Callable[[Sequence[str]], list[str]],
) -> BuildPlan:
    """Return the plan for a given machine. `amx_works` and `flags_accepted` are called only if the CPU
    advertises AMX."""
    chosen, backend_reason = choose_backend(machine, backend)
    amx, amx_args, amx_reason = choose_amx(machine, amx_works, flags_accepted)
    kernels_args, kernels_reason = choose_kernels(machine)
    digest = hashlib.sha256(" ".join(sorted(machine.cpu_flags)).encode()).hexdigest()[:8]
    native_reason = f"GGML_NATIVE=ON: compiled for this CPU ({machine.cpu}; features {digest})"
    return BuildPlan(
        backend=chosen,
        cmake_args=(
            *LIBRARY_ONLY,
            "-DGGML_NATIVE=ON",
            *kernels_args,
            *backend_args(chosen, machine),
            *amx_args,
        ),
        amx=amx,
        reasons=(backend_reason, native_reason, amx_reason, kernels_reason),
        others=tuple(f"{name}: {availability(name, machine)}" for name in BACKENDS if name != chosen),
    )


def decide_release(machine: Machine, backend: str | None) -> BuildPlan:
    """Return the plan, on a given machine, for a wheel to be published.

    Its CPU backend comes in variants for different processors, of which libggml loads the best
    (`native/variants`), and its GPU backend is for all GPUs, whatever is here.
    """
    apple = machine.system == "Darwin" and machine.machine == "arm64"
    chosen, backend_reason = choose_backend(machine, backend or ("metal" if apple else "cpu"))
    kernels = machine.system == "Linux" and machine.machine == "x86_64"
    return BuildPlan(
        backend=chosen,
        cmake_args=(
            *LIBRARY_ONLY,
            "-DGGML_NATIVE=OFF",
            "-DGGML_BACKEND_DL=ON",
            "-DGGML_CPU_ALL_VARIANTS=ON",
            *((KERNELS,) if kernels else ()),
            *(arg for arg in backend_args(chosen, machine) if not arg.startswith(_HERE_ONLY)),
            *(("-DGGML_OPENMP=OFF",) if machine.system == "Darwin" else ()),
        ),
        amx="absent",
        reasons=(
            backend_reason,
            "GGML_CPU_ALL_VARIANTS=ON: each kind of processor has a library of its own",
            "AMX: left out, because some machines advertise it and cannot execute it",
            f"kernels: {f'ours (version {kernels_version()})' if kernels else 'those of llama.cpp'}",
        ),
        tag=release_tag(chosen),
    )


def release_tag(backend: str) -> str:
    """Return the build tag of a published wheel. Of several in one folder, pip takes the highest number."""
    return f"{2 if backend in ('cpu', 'metal') else 1}{backend}{kernels_version()}"
