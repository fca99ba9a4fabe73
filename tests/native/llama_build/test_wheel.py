"""Wheels of llama-cpp-python: what a failed build says, and which wheel `make setup` takes."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from pass_edge.native.llama_build import wheel
from pass_edge.native.llama_build.machine import Machine
from pass_edge.native.llama_build.plan import release_tag
from tests.support.build_plans import LINUX, WITH_GPU, plan_for


def test_without_a_compiler_the_build_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert wheel.build_wheel("llama-cpp-python", tmp_path, plan_for(LINUX)) == 1
    assert "build-essential" in capsys.readouterr().err


@pytest.mark.parametrize(("machine", "has_advice"), [(LINUX, False), (WITH_GPU, True)])
def test_a_failed_gpu_build_advises_a_cpu_build(
    machine: Machine,
    has_advice: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(wheel, "has_compilers", lambda: True)
    monkeypatch.setattr(sys, "executable", "false")
    assert wheel.build_wheel("llama-cpp-python", tmp_path, plan_for(machine)) == 1
    assert ("make setup BACKEND=cpu" in capsys.readouterr().err) == has_advice


def wheel_named(folder: Path, tag: str, platform: str = "any") -> Path:
    """An empty wheel of llama-cpp-python 0.3.36 that pip accepts."""
    path = folder / f"llama_cpp_python-0.3.36-{tag}-py3-none-{platform}.whl"
    info = "llama_cpp_python-0.3.36.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n"
        )
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: py3-none-{platform}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.parametrize(
    ("tag", "platform", "fits"),
    [
        ("{ours}", "any", True),
        ("{ours}", "win_amd64", False),
        ("2cpu00000000", "any", False),
        ("{cuda}", "any", False),
    ],
    ids=["ours", "for another system", "other kernels", "another backend"],
)
def test_setup_takes_a_wheel_only_if_it_fits(tag: str, platform: str, fits: bool, tmp_path: Path) -> None:
    tag = tag.format(ours=release_tag("cpu"), cuda=release_tag("cuda"))
    ready, target = wheel_named(tmp_path, tag, platform), tmp_path / "taken"
    assert wheel.take_wheel("llama-cpp-python==0.3.36", tmp_path, target, "cpu") == fits
    assert (target / ready.name).exists() == fits
    assert not wheel.take_wheel("llama-cpp-python==0.3.99", tmp_path, target, "cpu")
