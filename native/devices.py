"""Devices and CPU threads of this machine."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from .cpu_count import usable_cpus
from .library import ggml, llama

_CPU, _GPU, _INTEGRATED_GPU = 0, 1, 2  # `ggml-backend.h`, `enum ggml_backend_dev_type`
_KINDS = {_CPU: "cpu", _GPU: "gpu", _INTEGRATED_GPU: "igpu", 3: "accelerator"}


@dataclass(frozen=True)
class Device:
    """A ggml backend device. ``kind``: "cpu", "gpu", "igpu", "accelerator" or "other"; memory: in bytes, as
    reported by the backend."""

    name: str
    description: str
    kind: str
    free_memory: int
    total_memory: int


def devices() -> list[Device]:
    """Return the devices that llama.cpp was built for and found here."""
    return [_device(handle) for handle in _handles()]


def device_names() -> list[str]:
    """Return name and description of each device. Unlike ``devices``, it does not query their memory, for
    which some drivers allocate some."""
    return [f"{_name(handle)}: {_description(handle)}" for handle in _handles()]


def _handles() -> list[int]:
    return [ggml("ggml_backend_dev_get")(i) for i in range(ggml("ggml_backend_dev_count")())]


def _name(handle: int) -> str:
    return str(ggml("ggml_backend_dev_name")(handle).decode())


def _description(handle: int) -> str:
    return str(ggml("ggml_backend_dev_description")(handle).decode())


def _device(handle: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml("ggml_backend_dev_memory")(handle, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=_name(handle),
        description=_description(handle),
        kind=_KINDS.get(ggml("ggml_backend_dev_type")(handle), "other"),
        free_memory=free.value,
        total_memory=total.value,
    )


def cpu_device() -> int:
    """Return ggml's handle of the CPU."""
    return int(ggml("ggml_backend_dev_by_type")(_CPU))


def gpu_device() -> int | None:
    """Return ggml's handle of the first GPU, else of the first integrated one; None without any."""
    by_type = ggml("ggml_backend_dev_by_type")
    return by_type(_GPU) or by_type(_INTEGRATED_GPU)


def can_offload() -> bool:
    """Return whether this build of llama.cpp can place layers on a GPU."""
    return bool(llama.llama_supports_gpu_offload())


def default_threads() -> int:
    """Return the default number of threads for decoding: the CPUs that this process may use."""
    return usable_cpus()
