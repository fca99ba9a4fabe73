"""The build plan follows the machine; AMX is used only if its instructions execute."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pass_edge.native.llama_build.machine import Machine
from pass_edge.native.llama_build.plan import decide
from tests.support.build_plans import LINUX, MAC, WITH_AMX, WITH_GPU, plan_for


def test_amx_absent_is_not_tried_and_changes_nothing() -> None:
    plan = plan_for(LINUX)
    assert plan.amx == "absent"
    assert not any("FLAGS" in arg for arg in plan.cmake_args)


def test_amx_that_executes_is_compiled_in() -> None:
    plan = plan_for(WITH_AMX, amx_executes=True)
    assert plan.amx == "works"
    assert not any("amx" in arg for arg in plan.cmake_args)


def test_amx_that_traps_is_left_out_of_c_and_cxx() -> None:
    plan = plan_for(WITH_AMX, amx_executes=False)
    assert plan.amx == "traps"
    flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    assert plan.cmake_args[-2:] == (f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}")


def test_a_compiler_too_old_for_amx_gets_no_flag_it_would_refuse() -> None:
    def knows_none(flags: Sequence[str]) -> list[str]:
        return []

    plan = decide(WITH_AMX, None, lambda: False, knows_none)
    assert plan.amx == "traps"
    assert not any("FLAGS" in arg for arg in plan.cmake_args)


def test_kernels_for_few_tokens_are_built_where_they_can_run() -> None:
    flags = frozenset({"avx2", "fma", "f16c"})
    able = Machine("Linux", "Some CPU", cpu_flags=flags)
    assert "-DPASS_EDGE_KERNELS=ON" in plan_for(able).cmake_args
    assert "kernels: ours" in plan_for(able).reasons[-1]
    for unable in (LINUX, MAC, Machine("Darwin", "Some CPU", cpu_flags=flags)):
        assert not any("KERNELS" in arg for arg in plan_for(unable).cmake_args)
        assert "kernels: llama.cpp's" in plan_for(unable).reasons[-1]


def test_cuda_needs_both_a_gpu_and_nvcc() -> None:
    assert plan_for(WITH_GPU).backend == "cuda"
    assert plan_for(Machine("Linux", "Some CPU", gpus=("9.0",))).backend == "cpu"
    assert plan_for(Machine("Linux", "Some CPU", nvcc="/usr/bin/nvcc")).backend == "cpu"


def test_a_gpu_without_nvcc_is_mentioned() -> None:
    assert "CUDA toolkit" in plan_for(Machine("Linux", "Some CPU", gpus=("9.0",))).reasons[0]


@pytest.mark.parametrize(
    ("gpus", "architectures"),
    [(("9.0",), "90-real"), (("8.6", "12.0", "8.6"), "120-real;86-real"), (("",), "native"), ((), "native")],
)
def test_cuda_is_compiled_for_the_gpus_that_are_here(gpus: tuple[str, ...], architectures: str) -> None:
    plan = plan_for(Machine("Linux", "Some CPU", gpus=gpus, nvcc="nvcc"), "cuda")
    assert f"-DCMAKE_CUDA_ARCHITECTURES={architectures}" in plan.cmake_args


def test_macos_gets_metal() -> None:
    plan = plan_for(MAC)
    assert plan.backend == "metal"
    assert "-DGGML_METAL=ON" in plan.cmake_args


def test_an_intel_mac_gets_the_cpu() -> None:
    assert plan_for(Machine("Darwin", "Some CPU", machine="x86_64")).backend == "cpu"


def test_vulkan_is_chosen_only_where_all_of_it_is_here() -> None:
    plan = plan_for(Machine("Linux", "Some CPU", vulkan_device=True))
    assert plan.backend == "vulkan"
    assert "-DGGML_VULKAN=ON" in plan.cmake_args
    without_device = plan_for(Machine("Linux", "Some CPU"))
    assert without_device.backend == "cpu"
    assert "vulkan: needs a Vulkan device that vulkaninfo lists" in without_device.others
    without_headers = plan_for(
        Machine("Linux", "Some CPU", vulkan_build_missing=("SPIRV-Headers",), vulkan_device=True)
    )
    assert without_headers.backend == "cpu"
    assert "vulkan: needs SPIRV-Headers" in without_headers.others


def test_cuda_comes_before_vulkan() -> None:
    both = Machine("Linux", "Some CPU", gpus=("9.0",), nvcc="nvcc", vulkan_device=True)
    assert plan_for(both).backend == "cuda"
    assert "vulkan: possible too: pass-edge setup --backend vulkan" in plan_for(both).others


def test_the_backend_can_be_chosen() -> None:
    assert plan_for(WITH_GPU, "cpu").backend == "cpu"
    assert "cuda: possible too: pass-edge setup --backend cuda" in plan_for(WITH_GPU, "cpu").others


@pytest.mark.parametrize(
    ("backend", "says"), [("metal", "macOS"), ("cuda", "nvcc"), ("abacus", "choose one of cpu, cuda")]
)
def test_a_backend_that_cannot_be_built_is_refused_with_the_reason(backend: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plan_for(LINUX, backend)


def test_another_cpu_gives_another_plan() -> None:
    other = Machine("Linux", LINUX.cpu, cpu_flags=frozenset({"avx2", "avx512f"}))
    assert plan_for(LINUX) != plan_for(other)
