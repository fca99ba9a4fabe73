"""How to build llama.cpp on this machine: a *plan* of CMake arguments with the reasons for them.

It uses the standard library only, because `make setup` runs it before anything is installed:
`python3 native/build.py [--backend cpu|cuda|metal|vulkan] [--release] [--explain | --json | --wheel DIR]`.
With --release the plan is for a wheel that others install: it suits all processors of this architecture.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Amx = Literal["absent", "works", "traps"]

BACKENDS = ("cpu", "cuda", "metal", "vulkan")

LIBRARY_ONLY = (
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
"""Build llama.cpp's library and nothing else."""

KERNELS = "-DPASS_EDGE_KERNELS=ON"
"""Build our kernels into the CPU backend."""

_KERNELS_CPU_FLAGS = frozenset({"avx2", "fma", "f16c"})

NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")

_HERE_ONLY = ("-DCMAKE_CUDA_ARCHITECTURES=", "-DCMAKE_SHARED_LINKER_FLAGS=")
"""Arguments that make a build fit this machine: its GPUs, and its folder of the CUDA runtime."""

AMX_PROBE = r"""
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One palette-1 tile of 16 rows of 64 bytes; instructions as bytes, for assemblers older than AMX. */
int main(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    static uint8_t config[64] __attribute__((aligned(64)));
    config[0] = 1;
    config[16] = 64;
    config[48] = 16;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) return 1;
    __asm__ volatile(".byte 0xc4,0xe2,0x78,0x49,0x00" : : "a"(config) : "memory"); /* ldtilecfg [rax] */
    __asm__ volatile(".byte 0xc4,0xe2,0x7b,0x49,0xc0");                            /* tilezero tmm0 */
    __asm__ volatile(".byte 0xc4,0xe2,0x78,0x49,0xc0");                            /* tilerelease */
    return 0;
}
"""
"""A C program that exits with 0 only if the system grants AMX and the processor executes its instructions."""

_CMAKE_FOLDERS = ("share", "lib", "lib64")
"""System folders that hold packages' CMake configurations."""

_HERE = Path(__file__).resolve().parent

NO_COMPILER = """no working C and C++ compiler was found. Install one and try again:
  Debian, Ubuntu   sudo apt install build-essential
  Fedora           sudo dnf install gcc gcc-c++
  Arch             sudo pacman -S base-devel
  macOS            xcode-select --install"""


@dataclass(frozen=True)
class Machine:
    """The facts about a machine that the plan depends on (see `inspect_machine`).

    `gpus`: NVIDIA compute capabilities ("9.0"; "" if the driver does not tell). `nvcc`: its path, or "".
    `cublas`: CMake arguments that locate cuBLAS; empty if nvcc finds it itself, None if it is not installed.
    `cudart`: the folder of the CUDA runtime; "" if unknown. `libcuda`: whether the driver can be linked.
    `machine`: the processor architecture ("arm64"). `vulkan_build_missing`: names of the parts that a Vulkan
    build needs and that are missing (see `_vulkan_build_missing`). `vulkan_device`: whether there is a device
    that a Vulkan build could run on.
    """

    system: str
    cpu: str
    cpu_flags: frozenset[str] = frozenset()
    gpus: tuple[str, ...] = ()
    nvcc: str = ""
    cublas: tuple[str, ...] | None = ()
    cudart: str = ""
    libcuda: bool = True
    machine: str = ""
    vulkan_build_missing: tuple[str, ...] = ()
    vulkan_device: bool = False

    @property
    def cuda_missing(self) -> str:
        """The missing requirements of a CUDA build, separated by commas; empty if none."""
        required = {"an NVIDIA GPU": self.gpus, "nvcc": self.nvcc, "cuBLAS": self.cublas is not None}
        return ", ".join(name for name, found in required.items() if not found)

    @property
    def vulkan_missing(self) -> str:
        """The missing requirements of building and using Vulkan, separated by commas; empty if none."""
        device = () if self.vulkan_device else ("a Vulkan device that vulkaninfo lists",)
        return ", ".join((*self.vulkan_build_missing, *device))


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


def plan(backend: str | None = None) -> BuildPlan:
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
    """Return the plan for a given machine. `amx_works` and `flags_accepted`: the functions below; they are
    called only if the CPU advertises AMX."""
    chosen, backend_reason = _backend(machine, backend)
    amx, amx_args, amx_reason = _amx(machine, amx_works, flags_accepted)
    kernels_args, kernels_reason = _kernels(machine)
    digest = hashlib.sha256(" ".join(sorted(machine.cpu_flags)).encode()).hexdigest()[:8]
    native_reason = f"GGML_NATIVE=ON: compiled for this CPU ({machine.cpu}; features {digest})"
    return BuildPlan(
        backend=chosen,
        cmake_args=(
            *LIBRARY_ONLY,
            "-DGGML_NATIVE=ON",
            *kernels_args,
            *_backend_args(chosen, machine),
            *amx_args,
        ),
        amx=amx,
        reasons=(backend_reason, native_reason, amx_reason, kernels_reason),
        others=tuple(f"{name}: {_availability(name, machine)}" for name in BACKENDS if name != chosen),
    )


def decide_release(machine: Machine, backend: str | None) -> BuildPlan:
    """Return the plan, on a given machine, for a wheel to be published.

    Its CPU backend comes in variants for different processors, of which libggml loads the best
    (`native/variants`), and its GPU backend is for all GPUs, whatever is here.
    """
    apple = machine.system == "Darwin" and machine.machine == "arm64"
    chosen, backend_reason = _backend(machine, backend or ("metal" if apple else "cpu"))
    kernels = machine.system == "Linux" and machine.machine == "x86_64"
    return BuildPlan(
        backend=chosen,
        cmake_args=(
            *LIBRARY_ONLY,
            "-DGGML_NATIVE=OFF",
            "-DGGML_BACKEND_DL=ON",
            "-DGGML_CPU_ALL_VARIANTS=ON",
            *((KERNELS,) if kernels else ()),
            *(arg for arg in _backend_args(chosen, machine) if not arg.startswith(_HERE_ONLY)),
            *(("-DGGML_OPENMP=OFF",) if machine.system == "Darwin" else ()),
        ),
        amx="absent",
        reasons=(
            backend_reason,
            "GGML_CPU_ALL_VARIANTS=ON: each kind of processor has a library of its own",
            "AMX: left out, because some machines advertise it and cannot execute it",
            f"kernels: {f'ours (version {_kernels_version()})' if kernels else 'those of llama.cpp'}",
        ),
        tag=release_tag(chosen),
    )


def release_tag(backend: str) -> str:
    """Return the build tag of a published wheel. Of several in one folder, pip takes the highest number."""
    return f"{2 if backend in ('cpu', 'metal') else 1}{backend}{_kernels_version()}"


def _backend(machine: Machine, requested: str | None) -> tuple[str, str]:
    if requested:
        _check_backend(requested, machine)
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


def _availability(backend: str, machine: Machine) -> str:
    """Return how another backend could be built here, or what it needs."""
    missing = {
        "cpu": "",
        "cuda": machine.cuda_missing,
        "metal": "" if machine.system == "Darwin" else "macOS",
        "vulkan": machine.vulkan_missing,
    }[backend]
    return f"needs {missing}" if missing else f"possible too: pass-edge setup --backend {backend}"


def _check_backend(backend: str, machine: Machine) -> None:
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


def _backend_args(backend: str, machine: Machine) -> tuple[str, ...]:
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


def _amx(
    machine: Machine, amx_works: Callable[[], bool], flags_accepted: Callable[[Sequence[str]], list[str]]
) -> tuple[Amx, tuple[str, ...], str]:
    """Compile AMX in only if its instructions execute.

    Some virtual machines advertise AMX and fault on its first instruction. llama.cpp relies on the compiler's
    flags, and would die there while decoding.
    """
    if "amx_tile" not in machine.cpu_flags:
        return "absent", (), "AMX: this CPU does not advertise it"
    if amx_works():
        return "works", (), "AMX: advertised, and its instructions execute"
    flags = " ".join(flags_accepted(NO_AMX))
    # A compiler that knows none of the flags cannot emit AMX either.
    args = (f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}") if flags else ()
    return "traps", args, "AMX: advertised, but its instructions do not execute here; left out"


def _kernels(machine: Machine) -> tuple[tuple[str, ...], str]:
    """Use our kernels for quantized weights and attention if they can run here."""
    if not _can_run_kernels(machine.system, machine.cpu_flags):
        return (), "kernels: llama.cpp's; ours need Linux and AVX2"
    return (KERNELS,), f"kernels: ours (version {_kernels_version()})"


def _can_run_kernels(system: str, cpu_flags: frozenset[str]) -> bool:
    return system == "Linux" and cpu_flags >= _KERNELS_CPU_FLAGS


def can_run_kernels() -> bool:
    """Return whether our kernels can run on this machine."""
    return _can_run_kernels(platform.system(), _cpu()[1])


def _kernels_version() -> str:
    """Return a digest of all that we add to llama.cpp."""
    folders = (_HERE / "kernels", _HERE / "variants")
    files = [_HERE / "build.cmake", *(path for folder in folders for path in sorted(folder.iterdir()))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


def inspect_machine() -> Machine:
    """Inspect this machine's CPU, GPUs, CUDA compiler and Vulkan packages."""
    cpu, flags = _cpu()
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin") or ""
    return Machine(
        system=platform.system(),
        cpu=cpu or platform.processor() or platform.machine(),
        cpu_flags=flags,
        gpus=_nvidia_gpus(),
        nvcc=nvcc,
        cublas=_cublas(nvcc) if nvcc else (),
        cudart=_cudart(nvcc) if nvcc else "",
        libcuda=not nvcc or _nvcc_links(nvcc, "cuda"),
        machine=platform.machine(),
        vulkan_build_missing=_vulkan_build_missing(),
        vulkan_device=_vulkan_device(),
    )


def _cpu() -> tuple[str, frozenset[str]]:
    """Return the processor's name and feature flags; empty where Linux does not tell them."""
    cpuinfo = Path("/proc/cpuinfo")
    return parse_cpuinfo(cpuinfo.read_text() if cpuinfo.exists() else "")


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return the model name and feature flags in Linux's /proc/cpuinfo (x86: "flags", Arm: "Features")."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name", ""), frozenset(flags.split())


def _nvidia_gpus() -> tuple[str, ...]:
    gpus = _output(["nvidia-smi", "-L"])
    count = sum(line.startswith("GPU ") for line in gpus.splitlines())
    capabilities = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]).split()
    return tuple(capabilities) if len(capabilities) == count else ("",) * count


def _cublas(nvcc: str) -> tuple[str, ...] | None:
    """Return CMake arguments that locate cuBLAS. Small toolkits lack it, but PyTorch installs NVIDIA's Python
    package of it."""
    if _nvcc_links(nvcc, "cublas", "#include <cublas_v2.h>\n"):
        return ()
    release = re.search(r"release (\d+)", _output([nvcc, "--version"]))
    print_folders = "import nvidia; print(*nvidia.__path__, sep='\\n')"
    for python in (sys.executable, "python3"):
        for folder in _output([python, "-c", print_folders]).splitlines():
            for library in Path(folder).glob(f"*/lib/libcublas.so.{release[1] if release else '*'}"):
                return (
                    f"-DCUDA_cublas_LIBRARY={library}",
                    f"-DCUDA_cublasLt_LIBRARY={str(library).replace('libcublas', 'libcublasLt')}",
                    f"-DCMAKE_CUDA_FLAGS=-I{library.parent.parent / 'include'}",
                )
    return None


def _cudart(nvcc: str) -> str:
    """Return the folder from which nvcc links the CUDA runtime; "" if unknown."""
    steps = _output([nvcc, "--dryrun", "-x", "cu", os.devnull], stderr=subprocess.STDOUT)
    folders = re.findall(r'"-L([^"]+)"', steps)
    return next(
        (str(Path(folder).resolve()) for folder in folders if list(Path(folder).glob("libcudart.so*"))), ""
    )


def _nvcc_links(nvcc: str, library: str, header: str = "") -> bool:
    """Return whether nvcc can compile a program with `header` and link it with `library`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "links.c")
        source.write_text(f"{header}int main(void) {{ return 0; }}\n")
        return _exit_status([nvcc, str(source), f"-l{library}", "-o", str(source.with_suffix(""))]) == 0


def _vulkan_build_missing() -> tuple[str, ...]:
    """Return the names of the missing parts among those that CMake needs to build ggml's Vulkan backend."""
    sdk = os.environ.get("VULKAN_SDK", "/usr")
    roots = [Path(root) for root in (sdk, "/usr", "/usr/local")]
    configuration = "cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake"
    required = {
        "glslc": shutil.which("glslc"),
        "Vulkan headers that know VK_EXT_layer_settings": any(map(_new_headers, roots)),
        "SPIRV-Headers": any(
            (root / folder / configuration).exists() for root in roots for folder in _CMAKE_FOLDERS
        ),
    }
    return tuple(name for name, found in required.items() if not found)


def _new_headers(root: Path) -> bool:
    # ggml-vulkan.cpp does not compile with older ones, such as those of Debian 12 and Ubuntu 22.04
    header = root / "include/vulkan/vulkan_core.h"
    return header.exists() and "VK_EXT_layer_settings" in header.read_text()


def _vulkan_device() -> bool:
    # software renderers (llvmpipe, lavapipe) are listed as CPUs, and are slower than ggml's own kernels
    kinds = re.findall(r"deviceType\s*=\s*PHYSICAL_DEVICE_TYPE_(\w+)", _output(["vulkaninfo", "--summary"]))
    return any(kind.endswith("_GPU") for kind in kinds)


def _output(command: Sequence[str], stderr: int = subprocess.DEVNULL) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def compiler(language: Literal["c", "c++"] = "c") -> str | None:
    """Return the compiler that CMake will pick, if it runs (macOS has a placeholder that does not)."""
    variable, names = (
        ("CC", ("cc", "gcc", "clang")) if language == "c" else ("CXX", ("c++", "g++", "clang++"))
    )
    candidates = [os.environ[variable]] if os.environ.get(variable) else names
    return next((name for name in candidates if _output([*shlex.split(name), "--version"])), None)


def amx_works() -> bool:
    """Return whether AMX_PROBE compiles and succeeds, in a child process, because a signal may kill it."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "amx")
        return _compiles(AMX_PROBE, "-o", str(program)) and _exit_status([str(program)]) == 0


def flags_accepted(flags: Sequence[str]) -> list[str]:
    """Return those of `flags` that the C compiler knows."""
    return [flag for flag in flags if _compiles("int main(void) { return 0; }", flag, "-o", os.devnull, "-c")]


def _compiles(source: str, *options: str) -> bool:
    name = compiler()
    return name is not None and _exit_status([*shlex.split(name), "-xc", "-", *options], source) == 0


def _exit_status(command: Sequence[str], stdin: str = "") -> int | None:
    """Return the exit status, negative for a signal; None if the program cannot run or does not end."""
    try:
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None


def build_wheel(requirement: str, folder: Path, build: BuildPlan) -> int:
    """Build the wheel of `requirement` (llama-cpp-python==…) into `folder`, and return pip's exit status."""
    if not has_compilers():
        print(NO_COMPILER, file=sys.stderr)
        return 1
    command, environment = wheel_command(requirement, folder, build)
    status = subprocess.run(command, env=environment).returncode
    if status and build.backend != "cpu":
        print(
            f"The {build.backend} backend cannot be built. Without it: make setup BACKEND=cpu",
            file=sys.stderr,
        )
    return status


def has_compilers() -> bool:
    """Return whether this machine can compile llama.cpp."""
    return bool(compiler("c") and compiler("c++"))


def wheel_command(requirement: str, folder: Path, build: BuildPlan) -> tuple[list[str], dict[str, str]]:
    """Return the command that builds the wheel of `requirement` into `folder`, and its environment.

    pip's cache is not used: it knows wheels by version only, and would return one built with other flags.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
    command += ["--no-binary", "llama-cpp-python", "--wheel-dir", str(folder), requirement]
    arguments = shlex.join([*build.cmake_args, f"-DCMAKE_PROJECT_INCLUDE={_HERE / 'build.cmake'}"])
    environment = {
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        **os.environ,
        "CMAKE_ARGS": f"{os.environ.get('CMAKE_ARGS', '')} {arguments}",
        # Leave out a second copy of all libraries and headers, which would land at the top of site-packages.
        "SKBUILD_WHEEL_EXCLUDE": "lib/**;include/**;bin/**",
        **({"SKBUILD_WHEEL_BUILD_TAG": build.tag} if build.tag else {}),
    }
    return command, environment


def take_wheel(requirement: str, source: Path, folder: Path, backend: str) -> bool:
    """Copy a wheel that `make wheels` built from `source` to `folder`, if one has this backend and these
    kernels, and pip can install it here. Return whether there was one."""
    name = requirement.replace("-", "_").replace("==", "-")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-index", "--dest", str(folder)]
    wheels = source.glob(f"{name}-{release_tag(backend)}-*.whl")
    return any(_exit_status([*command, str(wheel.resolve())]) == 0 for wheel in wheels)


def explain(build: BuildPlan) -> str:
    """Return the plan as text, one reason a line."""
    others = [f"else {other}" for other in build.others]
    return "\n".join([*build.reasons, *others, f"CMake arguments: {shlex.join(build.cmake_args)}"])


def main() -> int:
    """Print the plan (CMake arguments, quoted for a shell), or build by it."""
    parser = argparse.ArgumentParser(description="How to build llama.cpp on this machine.")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="override the choice")
    parser.add_argument("--release", action="store_true", help="plan a wheel for other machines too")
    parser.add_argument(
        "--ready", type=Path, metavar="DIR", help="take a wheel that fits from DIR if there is one"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--explain", action="store_true", help="print the plan with its reasons")
    action.add_argument("--json", action="store_true", help="print the plan as JSON")
    action.add_argument("--wheel", type=Path, metavar="DIR", help="build REQUIREMENT's wheel into DIR")
    parser.add_argument(
        "requirement", nargs="?", default="llama-cpp-python", help="the package that --wheel builds"
    )
    options = parser.parse_args()
    try:
        build = (plan_release if options.release else plan)(
            None if options.backend == "auto" else options.backend
        )
    except ValueError as error:
        parser.error(str(error))
    if options.wheel:
        if options.ready and take_wheel(options.requirement, options.ready, options.wheel, build.backend):
            return 0
        return build_wheel(options.requirement, options.wheel, build)
    if options.json:
        # The Makefile builds again if this changes, so it leaves out what could be built instead.
        fields = {name: value for name, value in dataclasses.asdict(build).items() if name != "others"}
        print(json.dumps(fields, indent=1))
    else:
        print(explain(build) if options.explain else shlex.join(build.cmake_args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
