"""The build plan follows the machine; AMX is used only if its instructions execute."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pass_edge.native import build
from pass_edge.native.build import BuildPlan, Machine

SCRIPT = Path(build.__file__)
LINUX = Machine(system="Linux", cpu="Some CPU", cpu_flags=frozenset({"avx2"}))
WITH_AMX = Machine(system="Linux", cpu="Big CPU", cpu_flags=frozenset({"avx2", "amx_tile", "amx_int8"}))
WITH_GPU = Machine(system="Linux", cpu="Some CPU", gpus=("9.0",), nvcc="/usr/local/cuda/bin/nvcc")
MAC = Machine(system="Darwin", cpu="Apple M9", machine="arm64")


def decide(machine: Machine, backend: str | None = None, amx_executes: bool | None = None) -> BuildPlan:
    """The plan for a machine whose compiler knows every flag. `amx_executes=None`: must not be tried."""

    def probe() -> bool:
        assert amx_executes is not None, "AMX was tried on a machine that does not advertise it"
        return amx_executes

    return build.decide(machine, backend, probe, list)


def test_amx_absent_is_not_tried_and_changes_nothing() -> None:
    plan = decide(LINUX)
    assert plan.amx == "absent"
    assert not any("FLAGS" in arg for arg in plan.cmake_args)


def test_amx_that_executes_is_compiled_in() -> None:
    plan = decide(WITH_AMX, amx_executes=True)
    assert plan.amx == "works"
    assert not any("amx" in arg for arg in plan.cmake_args)


def test_amx_that_traps_is_left_out_of_c_and_cxx() -> None:
    plan = decide(WITH_AMX, amx_executes=False)
    assert plan.amx == "traps"
    flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    assert plan.cmake_args[-2:] == (f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}")


def test_a_compiler_too_old_for_amx_gets_no_flag_it_would_refuse() -> None:
    def knows_none(flags: Sequence[str]) -> list[str]:
        return []

    plan = build.decide(WITH_AMX, None, lambda: False, knows_none)
    assert plan.amx == "traps"
    assert not any("FLAGS" in arg for arg in plan.cmake_args)


def test_kernels_for_few_tokens_are_built_where_they_can_run() -> None:
    flags = frozenset({"avx2", "fma", "f16c"})
    able = Machine("Linux", "Some CPU", cpu_flags=flags)
    assert "-DPASS_EDGE_KERNELS=ON" in decide(able).cmake_args
    assert "kernels: ours" in decide(able).reasons[-1]
    for unable in (LINUX, MAC, Machine("Darwin", "Some CPU", cpu_flags=flags)):
        assert not any("KERNELS" in arg for arg in decide(unable).cmake_args)
        assert "kernels: llama.cpp's" in decide(unable).reasons[-1]


def test_cuda_needs_both_a_gpu_and_nvcc() -> None:
    assert decide(WITH_GPU).backend == "cuda"
    assert decide(Machine("Linux", "Some CPU", gpus=("9.0",))).backend == "cpu"
    assert decide(Machine("Linux", "Some CPU", nvcc="/usr/bin/nvcc")).backend == "cpu"


def test_a_gpu_without_nvcc_is_mentioned() -> None:
    assert "CUDA toolkit" in decide(Machine("Linux", "Some CPU", gpus=("9.0",))).reasons[0]


@pytest.mark.parametrize(
    ("gpus", "architectures"),
    [(("9.0",), "90-real"), (("8.6", "12.0", "8.6"), "120-real;86-real"), (("",), "native"), ((), "native")],
)
def test_cuda_is_compiled_for_the_gpus_that_are_here(gpus: tuple[str, ...], architectures: str) -> None:
    plan = decide(Machine("Linux", "Some CPU", gpus=gpus, nvcc="nvcc"), "cuda")
    assert f"-DCMAKE_CUDA_ARCHITECTURES={architectures}" in plan.cmake_args


def test_macos_gets_metal() -> None:
    plan = decide(MAC)
    assert plan.backend == "metal"
    assert "-DGGML_METAL=ON" in plan.cmake_args


def test_an_intel_mac_gets_the_cpu() -> None:
    assert decide(Machine("Darwin", "Some CPU", machine="x86_64")).backend == "cpu"


def test_vulkan_is_chosen_only_where_all_of_it_is_here() -> None:
    plan = decide(Machine("Linux", "Some CPU", vulkan_device=True))
    assert plan.backend == "vulkan"
    assert "-DGGML_VULKAN=ON" in plan.cmake_args
    without_device = decide(Machine("Linux", "Some CPU"))
    assert without_device.backend == "cpu"
    assert "vulkan: needs a Vulkan device that vulkaninfo lists" in without_device.others
    without_headers = decide(
        Machine("Linux", "Some CPU", vulkan_build_missing=("SPIRV-Headers",), vulkan_device=True)
    )
    assert without_headers.backend == "cpu"
    assert "vulkan: needs SPIRV-Headers" in without_headers.others


def test_cuda_comes_before_vulkan() -> None:
    both = Machine("Linux", "Some CPU", gpus=("9.0",), nvcc="nvcc", vulkan_device=True)
    assert decide(both).backend == "cuda"
    assert "vulkan: possible too: pass-edge setup --backend vulkan" in decide(both).others


def test_the_backend_can_be_chosen() -> None:
    assert decide(WITH_GPU, "cpu").backend == "cpu"
    assert "cuda: possible too: pass-edge setup --backend cuda" in decide(WITH_GPU, "cpu").others


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
    assert not build._new_headers(tmp_path / "sdk"), "older ones"
    (tmp_path / "sdk/include/vulkan/vulkan_core.h").write_text("#define VK_EXT_layer_settings 1")
    found = build.inspect_machine()
    assert (found.gpus, found.nvcc) == (("8.9",), str(tmp_path / "nvcc"))
    assert not found.vulkan_missing
    assert "-DCMAKE_CUDA_ARCHITECTURES=89-real" in decide(found, "cuda").cmake_args


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
    bare = build.inspect_machine()
    assert decide(bare).backend == "cpu"
    assert "no cuBLAS" in decide(bare).reasons[0]
    with pytest.raises(ValueError, match="pip install nvidia-cublas"):
        decide(bare, "cuda")

    put_tool(tmp_path, "python3", f"echo {tmp_path}")
    libraries = tmp_path / "cu13/lib"
    libraries.mkdir(parents=True)
    (libraries / "libcublas.so.12").touch()
    assert build.inspect_machine().cublas is None
    (libraries / "libcublas.so.13").touch()
    plan = decide(build.inspect_machine())
    assert plan.backend == "cuda"
    assert f"-DCUDA_cublas_LIBRARY={libraries}/libcublas.so.13" in plan.cmake_args
    assert f"-DCUDA_cublasLt_LIBRARY={libraries}/libcublasLt.so.13" in plan.cmake_args
    assert f"-DCMAKE_CUDA_FLAGS=-I{tmp_path}/cu13/include" in plan.cmake_args
    assert "-DGGML_CUDA_NO_VMM=ON" in plan.cmake_args
    assert not any("rpath" in arg for arg in plan.cmake_args)
    (tmp_path / "libcudart.so.13").touch()
    plan = decide(build.inspect_machine())
    assert f"-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-rpath,{tmp_path}" in plan.cmake_args


def test_a_whole_toolkit_needs_no_further_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    put_tool(tmp_path, "nvcc", "exit 0")
    plan = decide(build.inspect_machine(), "cuda")
    assert not any("cublas" in arg or "NO_VMM" in arg for arg in plan.cmake_args)


def test_a_software_renderer_is_no_vulkan_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    put_tool(tmp_path, "vulkaninfo", SUMMARY.format("CPU"))
    assert "a Vulkan device" in build.inspect_machine().vulkan_missing


def test_a_vulkan_build_asks_for_what_it_lacks_but_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "glslc" in build.inspect_machine().vulkan_build_missing
    lacking = dataclasses.replace(LINUX, vulkan_build_missing=("glslc", "SPIRV-Headers"))
    with pytest.raises(ValueError, match="lacks glslc, SPIRV-Headers; install"):
        decide(lacking, "vulkan")
    elsewhere = dataclasses.replace(LINUX, vulkan_build_missing=("SPIRV-Headers",))
    assert "-DGGML_VULKAN=ON" in decide(elsewhere, "vulkan").cmake_args


@pytest.mark.parametrize(
    ("backend", "says"), [("metal", "macOS"), ("cuda", "nvcc"), ("abacus", "choose one of cpu, cuda")]
)
def test_a_backend_that_cannot_be_built_is_refused_with_the_reason(backend: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decide(LINUX, backend)


def test_another_cpu_gives_another_plan() -> None:
    other = Machine("Linux", LINUX.cpu, cpu_flags=frozenset({"avx2", "avx512f"}))
    assert decide(LINUX) != decide(other)


def test_cpuinfo_is_read_on_x86_and_arm() -> None:
    x86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu amx_tile\n\nflags\t\t: other\n"
    assert build.parse_cpuinfo(x86) == ("Some CPU", frozenset({"fpu", "amx_tile"}))
    assert build.parse_cpuinfo("Features\t: fp asimd\n") == ("", frozenset({"fp", "asimd"}))
    assert build.parse_cpuinfo("") == ("", frozenset())


def test_the_real_amx_probe_runs_here() -> None:
    advertised = "amx_tile" in build.inspect_machine().cpu_flags
    executes = build.amx_works()
    assert advertised or not executes
    assert build.plan().amx == (("works" if executes else "traps") if advertised else "absent")


@pytest.mark.skipif(build.compiler() is None, reason="no C compiler")
def test_the_real_compiler_is_asked_which_flags_it_knows() -> None:
    assert build.flags_accepted(["-O2", "-mno-such-thing"]) == ["-O2"]


def test_without_a_compiler_amx_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build.compiler() is None
    assert not build.amx_works()
    assert build.flags_accepted(build.NO_AMX) == []


def test_without_a_compiler_the_build_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.build_wheel("llama-cpp-python", tmp_path, decide(LINUX)) == 1
    assert "build-essential" in capsys.readouterr().err


@pytest.mark.parametrize(("machine", "has_advice"), [(LINUX, False), (WITH_GPU, True)])
def test_a_failed_gpu_build_advises_a_cpu_build(
    machine: Machine,
    has_advice: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(build, "compiler", lambda _: "cc")
    monkeypatch.setattr(sys, "executable", "false")
    assert build.build_wheel("llama-cpp-python", tmp_path, decide(machine)) == 1
    assert ("make setup BACKEND=cpu" in capsys.readouterr().err) == has_advice


def test_the_script_runs_on_its_own_and_prints_the_plan(tmp_path: Path) -> None:
    def script(*arguments: str) -> str:
        command = [sys.executable, "-I", str(SCRIPT), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    plan = build.plan()
    assert json.loads(script("--json"))["cmake_args"] == list(plan.cmake_args)
    assert script().startswith("-DLLAVA_BUILD=OFF ")
    assert all(reason in script("--explain") for reason in plan.reasons)


def test_the_makefile_finds_the_version_of_llama_cpp_to_build() -> None:
    root = Path(__file__).resolve().parents[2]
    (pinned,) = re.findall(r"llama-cpp-python==[\d.]+", (root / "pyproject.toml").read_text())
    shown = subprocess.run(["make", "-n", "-p"], cwd=root, capture_output=True, text=True).stdout
    assert f"LLAMA := {pinned}" in shown
