"""The command line: print the plan, or build by it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from pathlib import Path

from .backends import BACKENDS
from .plan import BuildPlan, plan_here, plan_release
from .wheel import build_wheel, take_wheel


def main() -> int:
    """Print the plan (CMake arguments, quoted for a shell), or build by it."""
    parser = argparse.ArgumentParser(
        prog="python3 -m pass_edge.native.llama_build", description="How to build llama.cpp on this machine."
    )
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
        build = (plan_release if options.release else plan_here)(
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
        print(_explain(build) if options.explain else shlex.join(build.cmake_args))
    return 0


def _explain(build: BuildPlan) -> str:
    """Return the plan as text, one reason a line."""
    others = [f"else {other}" for other in build.others]
    return "\n".join([*build.reasons, *others, f"CMake arguments: {shlex.join(build.cmake_args)}"])


if __name__ == "__main__":
    sys.exit(main())
