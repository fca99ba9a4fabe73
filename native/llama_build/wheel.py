"""The wheel of llama-cpp-python: build it by a plan, or take one that is ready."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from .compiler import NO_COMPILER, has_compilers
from .plan import BuildPlan, release_tag
from .programs import exit_status

_BUILD_CMAKE = Path(__file__).resolve().parents[1] / "build.cmake"


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


def wheel_command(requirement: str, folder: Path, build: BuildPlan) -> tuple[list[str], dict[str, str]]:
    """Return the command that builds the wheel of `requirement` into `folder`, and its environment.

    pip's cache is not used: it knows wheels by version only, and would return one built with other flags.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
    command += ["--no-binary", "llama-cpp-python", "--wheel-dir", str(folder), requirement]
    arguments = shlex.join([*build.cmake_args, f"-DCMAKE_PROJECT_INCLUDE={_BUILD_CMAKE}"])
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
    return any(exit_status([*command, str(wheel.resolve())]) == 0 for wheel in wheels)
