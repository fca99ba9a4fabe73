"""The build plan is printed before anything is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from pass_edge.native.llama_build.plan import plan_here
from pass_edge.native.llama_version import requirement

ROOT = Path(__file__).resolve().parents[3]


def test_the_script_runs_on_its_own_and_prints_the_plan() -> None:
    def script(*arguments: str) -> str:
        command = [sys.executable, "-EsS", "-m", "pass_edge.native.llama_build", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    plan = plan_here()
    assert json.loads(script("--json"))["cmake_args"] == list(plan.cmake_args)
    assert script().startswith("-DLLAVA_BUILD=OFF ")
    assert all(reason in script("--explain") for reason in plan.reasons)


def test_the_makefile_finds_the_version_of_llama_cpp_to_build() -> None:
    (pinned,) = re.findall(r"llama-cpp-python==[\d.]+", (ROOT / "pyproject.toml").read_text())
    shown = subprocess.run(["make", "-n", "-p"], cwd=ROOT, capture_output=True, text=True).stdout
    assert f"LLAMA := {pinned}" in shown
    assert requirement() == pinned
