"""Plans for wheels to publish."""

from __future__ import annotations

import dataclasses
import re

from pass_edge.native.llama_build.backends import BACKENDS
from pass_edge.native.llama_build.kernels import KERNELS
from pass_edge.native.llama_build.machine import Machine
from pass_edge.native.llama_build.plan import decide, decide_release, release_tag
from tests.support.build_plans import MAC

X86 = Machine("Linux", "Some CPU", machine="x86_64", gpus=("9.0",), nvcc="nvcc", cudart="/toolkit/lib")


def test_a_release_is_for_all_processors_and_says_nothing_of_this_machine() -> None:
    plan = decide_release(X86, None)
    assert plan.backend == "cpu", "whatever GPU is here"
    assert {"-DGGML_NATIVE=OFF", "-DGGML_CPU_ALL_VARIANTS=ON", "-DGGML_BACKEND_DL=ON"} < set(plan.cmake_args)
    assert KERNELS in plan.cmake_args
    assert plan.cmake_args == decide_release(dataclasses.replace(X86, cpu_flags=frozenset()), None).cmake_args


def test_a_release_for_gpus_is_for_all_of_them() -> None:
    arguments = decide_release(X86, "cuda").cmake_args
    assert "-DGGML_CUDA=ON" in arguments
    assert not any("ARCHITECTURES" in each or "/toolkit/lib" in each for each in arguments)
    assert any("ARCHITECTURES" in each for each in decide(X86, "cuda", lambda: True, list).cmake_args)


def test_a_release_for_macs_has_metal_and_no_kernels_of_ours() -> None:
    plan = decide_release(MAC, None)
    assert plan.backend == "metal"
    assert KERNELS not in plan.cmake_args


def test_pip_prefers_the_wheel_for_the_cpu_in_a_folder_with_others() -> None:
    numbers = {name: int(re.match(r"\d+", release_tag(name))[0]) for name in BACKENDS}  # type: ignore[index]
    assert numbers["cpu"] > max(numbers["cuda"], numbers["vulkan"])
