"""What a Vulkan build needs of this machine: a compiler of shaders, headers, and a device."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from .programs import output

_CMAKE_FOLDERS = ("share", "lib", "lib64")
"""System folders that hold packages' CMake configurations."""


def build_missing() -> tuple[str, ...]:
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


def has_device() -> bool:
    """Return whether `vulkaninfo` lists a GPU."""
    # software renderers (llvmpipe, lavapipe) are listed as CPUs, and are slower than ggml's own kernels
    kinds = re.findall(r"deviceType\s*=\s*PHYSICAL_DEVICE_TYPE_(\w+)", output(["vulkaninfo", "--summary"]))
    return any(kind.endswith("_GPU") for kind in kinds)
