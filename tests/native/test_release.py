"""Plans for wheels to publish, and which wheel `make setup` takes."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from pathlib import Path

import pytest

from pass_edge.native import build
from pass_edge.native.build import Machine

MAC = Machine(system="Darwin", cpu="Apple M9", machine="arm64")
X86 = Machine("Linux", "Some CPU", machine="x86_64", gpus=("9.0",), nvcc="nvcc", cudart="/toolkit/lib")


def test_a_release_is_for_all_processors_and_says_nothing_of_this_machine() -> None:
    plan = build.decide_release(X86, None)
    assert plan.backend == "cpu", "whatever GPU is here"
    assert {"-DGGML_NATIVE=OFF", "-DGGML_CPU_ALL_VARIANTS=ON", "-DGGML_BACKEND_DL=ON"} < set(plan.cmake_args)
    assert build.KERNELS in plan.cmake_args
    assert (
        plan.cmake_args
        == build.decide_release(dataclasses.replace(X86, cpu_flags=frozenset()), None).cmake_args
    )


def test_a_release_for_gpus_is_for_all_of_them() -> None:
    arguments = build.decide_release(X86, "cuda").cmake_args
    assert "-DGGML_CUDA=ON" in arguments
    assert not any("ARCHITECTURES" in each or "/toolkit/lib" in each for each in arguments)
    assert any("ARCHITECTURES" in each for each in build.decide(X86, "cuda", lambda: True, list).cmake_args)


def test_a_release_for_macs_has_metal_and_no_kernels_of_ours() -> None:
    plan = build.decide_release(MAC, None)
    assert plan.backend == "metal"
    assert build.KERNELS not in plan.cmake_args


def test_pip_prefers_the_wheel_for_the_cpu_in_a_folder_with_others() -> None:
    numbers = {name: int(re.match(r"\d+", build.release_tag(name))[0]) for name in build.BACKENDS}  # type: ignore[index]
    assert numbers["cpu"] > max(numbers["cuda"], numbers["vulkan"])


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
    tag = tag.format(ours=build.release_tag("cpu"), cuda=build.release_tag("cuda"))
    wheel, target = wheel_named(tmp_path, tag, platform), tmp_path / "taken"
    assert build.take_wheel("llama-cpp-python==0.3.36", tmp_path, target, "cpu") == fits
    assert (target / wheel.name).exists() == fits
    assert not build.take_wheel("llama-cpp-python==0.3.99", tmp_path, target, "cpu")
