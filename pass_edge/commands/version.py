"""pass-edge --version: the versions of all that a bug report should name."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from pass_edge.native.errors import LibraryError


def version_lines() -> str:
    """Return the versions of PaSS Edge, llama-cpp-python with its kernels, Python and the system, one a
    line."""
    return "\n".join(
        (
            f"pass-edge {_version('pass-edge')}",
            f"llama-cpp-python {_version('llama-cpp-python')}, {_kernels()}",
            f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        )
    )


def _kernels() -> str:
    try:
        from pass_edge.native.library import kernels
    except LibraryError as error:
        return f"which does not work here: {error}"
    return f"PaSS Edge's kernels ({kernels()})" if kernels() else "llama.cpp's kernels"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout, or a library of the user's own
        return "(not installed)"
