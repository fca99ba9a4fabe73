"""The C and C++ compilers that CMake will pick, and what they can compile."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Literal

from .programs import exit_status, output

NO_COMPILER = """no working C and C++ compiler was found. Install one and try again:
  Debian, Ubuntu   sudo apt install build-essential
  Fedora           sudo dnf install gcc gcc-c++
  Arch             sudo pacman -S base-devel
  macOS            xcode-select --install"""


def compiler(language: Literal["c", "c++"] = "c") -> str | None:
    """Return the compiler that CMake will pick, if it runs (macOS has a placeholder that does not)."""
    variable, names = (
        ("CC", ("cc", "gcc", "clang")) if language == "c" else ("CXX", ("c++", "g++", "clang++"))
    )
    candidates = [os.environ[variable]] if os.environ.get(variable) else names
    return next((name for name in candidates if output([*shlex.split(name), "--version"])), None)


def has_compilers() -> bool:
    """Return whether this machine can compile llama.cpp."""
    return bool(compiler("c") and compiler("c++"))


def flags_accepted(flags: Sequence[str]) -> list[str]:
    """Return those of `flags` that the C compiler knows."""
    return [flag for flag in flags if compiles("int main(void) { return 0; }", flag, "-o", os.devnull, "-c")]


def compiles(source: str, *options: str) -> bool:
    """Return whether the C compiler accepts `source` with `options`."""
    name = compiler()
    return name is not None and exit_status([*shlex.split(name), "-xc", "-", *options], source) == 0
