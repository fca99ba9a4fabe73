"""Compilers, toolkits, GPUs and processors are found as machines have them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pass_edge.native.llama_build import amx, vulkan
from pass_edge.native.llama_build.compiler import compiler, flags_accepted
from pass_edge.native.llama_build.machine import inspect_machine, parse_cpuinfo
from pass_edge.native.llama_build.plan import plan_here
from tests.support.build_plans import LINUX, plan_for


def put_tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


SMI = 'case "$1" in -L) echo "GPU 0: Some card";; *) echo 8.9;; esac'


SUMMARY = 'echo "  deviceType = PHYSICAL_DEVICE_TYPE_{}"'


def test_tools_on_the_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path / "sdk"))
    put_tool(tmp_path, "nvcc", "exit 0")
    put_tool(tmp_path, "nvidia-smi", SMI)
    put_tool(tmp_path, "glslc", "exit 0")
    put_tool(tmp_path, "vulkaninfo", SUMMARY.format("DISCRETE_GPU"))
    for file in ("include/vulkan/vulkan_core.h", "share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake"):
        (tmp_path / "sdk" / file).parent.mkdir(parents=True)
        (tmp_path / "sdk" / file).touch()
    assert not vulkan._new_headers(tmp_path / "sdk"), "older ones"
    (tmp_path / "sdk/include/vulkan/vulkan_core.h").write_text("#define VK_EXT_layer_settings 1")
    found = inspect_machine()
    assert (found.gpus, found.nvcc) == (("8.9",), str(tmp_path / "nvcc"))
    assert not found.vulkan_missing
    assert "-DCMAKE_CUDA_ARCHITECTURES=89-real" in plan_for(found, "cuda").cmake_args


NVCC = """case "$*" in
    --version) echo "Cuda compilation tools, release 13.0, V13.0.88";;
    *-lcublas*|*-lcuda*) exit 1;;
    *--dryrun*) echo '#$ LIBRARIES=  "-L/nowhere/stubs" "-L{folder}"' >&2;;
esac"""


def test_cublas_comes_out_of_python_where_the_toolkit_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    put_tool(tmp_path, "nvcc", NVCC.replace("{folder}", str(tmp_path)))
    put_tool(tmp_path, "nvidia-smi", SMI)
    bare = inspect_machine()
    assert plan_for(bare).backend == "cpu"
    assert "no cuBLAS" in plan_for(bare).reasons[0]
    with pytest.raises(ValueError, match="pip install nvidia-cublas"):
        plan_for(bare, "cuda")

    put_tool(tmp_path, "python3", f"echo {tmp_path}")
    libraries = tmp_path / "cu13/lib"
    libraries.mkdir(parents=True)
    (libraries / "libcublas.so.12").touch()
    assert inspect_machine().cublas is None
    (libraries / "libcublas.so.13").touch()
    plan = plan_for(inspect_machine())
    assert plan.backend == "cuda"
    assert f"-DCUDA_cublas_LIBRARY={libraries}/libcublas.so.13" in plan.cmake_args
    assert f"-DCUDA_cublasLt_LIBRARY={libraries}/libcublasLt.so.13" in plan.cmake_args
    assert f"-DCMAKE_CUDA_FLAGS=-I{tmp_path}/cu13/include" in plan.cmake_args
    assert "-DGGML_CUDA_NO_VMM=ON" in plan.cmake_args
    assert not any("rpath" in arg for arg in plan.cmake_args)
    (tmp_path / "libcudart.so.13").touch()
    plan = plan_for(inspect_machine())
    assert f"-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-rpath,{tmp_path}" in plan.cmake_args


def test_a_whole_toolkit_needs_no_further_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    put_tool(tmp_path, "nvcc", "exit 0")
    plan = plan_for(inspect_machine(), "cuda")
    assert not any("cublas" in arg or "NO_VMM" in arg for arg in plan.cmake_args)


def test_a_software_renderer_is_no_vulkan_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    put_tool(tmp_path, "vulkaninfo", SUMMARY.format("CPU"))
    assert "a Vulkan device" in inspect_machine().vulkan_missing


def test_a_vulkan_build_asks_for_what_it_lacks_but_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "glslc" in inspect_machine().vulkan_build_missing
    lacking = dataclasses.replace(LINUX, vulkan_build_missing=("glslc", "SPIRV-Headers"))
    with pytest.raises(ValueError, match="lacks glslc, SPIRV-Headers; install"):
        plan_for(lacking, "vulkan")
    elsewhere = dataclasses.replace(LINUX, vulkan_build_missing=("SPIRV-Headers",))
    assert "-DGGML_VULKAN=ON" in plan_for(elsewhere, "vulkan").cmake_args


def test_cpuinfo_is_read_on_x86_and_arm() -> None:
    x86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu amx_tile\n\nflags\t\t: other\n"
    assert parse_cpuinfo(x86) == ("Some CPU", frozenset({"fpu", "amx_tile"}))
    assert parse_cpuinfo("Features\t: fp asimd\n") == ("", frozenset({"fp", "asimd"}))
    assert parse_cpuinfo("") == ("", frozenset())


def test_the_real_amx_probe_runs_here() -> None:
    advertised = "amx_tile" in inspect_machine().cpu_flags
    executes = amx.amx_works()
    assert advertised or not executes
    assert plan_here().amx == (("works" if executes else "traps") if advertised else "absent")


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_the_real_compiler_is_asked_which_flags_it_knows() -> None:
    assert flags_accepted(["-O2", "-mno-such-thing"]) == ["-O2"]


def test_without_a_compiler_amx_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compiler() is None
    assert not amx.amx_works()
    assert flags_accepted(amx.NO_AMX) == []
