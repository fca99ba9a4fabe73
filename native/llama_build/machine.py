"""The facts about this machine that the build plan depends on."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import cuda, vulkan


@dataclass(frozen=True)
class Machine:
    """The facts about a machine that the plan depends on (see `inspect_machine`).

    `gpus`: NVIDIA compute capabilities ("9.0"; "" if the driver does not tell). `nvcc`: its path, or "".
    `cublas`: CMake arguments that locate cuBLAS; empty if nvcc finds it itself, None if it is not installed.
    `cudart`: the folder of the CUDA runtime; "" if unknown. `libcuda`: whether the driver can be linked.
    `machine`: the processor architecture ("arm64"). `vulkan_build_missing`: names of the parts that a Vulkan
    build needs and that are missing (see `vulkan.build_missing`). `vulkan_device`: whether there is a device
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


def inspect_machine() -> Machine:
    """Inspect this machine's CPU, GPUs, CUDA compiler and Vulkan packages."""
    cpu, flags = cpu_name_and_flags()
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin") or ""
    return Machine(
        system=platform.system(),
        cpu=cpu or platform.processor() or platform.machine(),
        cpu_flags=flags,
        gpus=cuda.nvidia_gpus(),
        nvcc=nvcc,
        cublas=cuda.cublas(nvcc) if nvcc else (),
        cudart=cuda.cudart(nvcc) if nvcc else "",
        libcuda=not nvcc or cuda.nvcc_links(nvcc, "cuda"),
        machine=platform.machine(),
        vulkan_build_missing=vulkan.build_missing(),
        vulkan_device=vulkan.has_device(),
    )


def cpu_name_and_flags() -> tuple[str, frozenset[str]]:
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
