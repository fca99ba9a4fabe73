"""The version of llama-cpp-python that is needed, and the one that is here."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires, version

_PACKAGE = "llama-cpp-python"


def requirement() -> str:
    """Return the needed version as pip knows it, "llama-cpp-python==…"; "" in a checkout that is not
    installed."""
    try:
        needed = requires("pass-edge") or ()
    except PackageNotFoundError:
        return ""
    return next(each for each in needed if each.startswith(_PACKAGE))


def version_problem() -> str:
    """Return a sentence that says which version is here, which is needed and what to do; "" if it is the
    needed one, or unknown."""
    needed, here = requirement().removeprefix(f"{_PACKAGE}=="), _version_here()
    if not (needed and here) or here.partition("+")[0] == needed:  # "0.3.36+cu124" names a build of 0.3.36
        return ""
    return (
        f"{_PACKAGE} {here} is installed, but PaSS Edge works with {needed} only; build and install that "
        "version: pass-edge setup"
    )


def _version_here() -> str:
    """Return the version of the imported package or, where it cannot be imported, of the installed one; "" if
    neither is known."""
    if imported := getattr(sys.modules.get("llama_cpp"), "__version__", ""):
        return str(imported)
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        return ""
