"""pass-edge setup builds first and installs last, so a failed or interrupted build changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from pass_edge import Engine
from pass_edge.commands import doctor, setup
from pass_edge.engine_setup import schedule_choice
from pass_edge.native import llama_version
from pass_edge.native.llama_build import plan
from pass_edge.native.llama_build.machine import Machine
from pass_edge.native.quantize import quantize
from tests.support.command_line import run

REAL = sys.executable
PYTHON = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path

said = " ".join(sys.argv[1:])
if "import nvidia" in said:  # asked by the plan
    sys.exit(1)
with open(os.environ["CALLS"], "a") as calls:
    calls.write(said + "\\n")
if "pip wheel" in said:
    assert os.environ["TMPDIR"] == sys.argv[sys.argv.index("--wheel-dir") + 1]
    print("[1/3] cc one.c", flush=True)
    if "SLOW" in os.environ:
        Path(os.environ["SLOW"]).write_text(str(os.getpid()))
        time.sleep(60)
    print("[3/3] c++ three.cpp", "PASS_EDGE_KERNELS" in os.environ.get("CMAKE_ARGS", ""), flush=True)
    if "BROKEN" in os.environ:
        sys.exit("error: the compiler gave up")
    Path(os.environ["TMPDIR"], "llama_cpp_python-0.3.36-py3-none-any.whl").touch()
elif "pip install" in said:
    assert os.path.exists(sys.argv[-1])
else:
    print("AVX9" if "undone" not in os.environ else "")
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command lines that setup gave to Python, which is one that only pretends to build and install."""
    python, log = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("CALLS", str(log))
    monkeypatch.setattr(setup, "has_compilers", lambda: True)
    return log


def test_the_wheel_is_built_then_installed(calls: Path) -> None:
    done = run("setup", "--backend", "cpu")
    assert done.exit_code == 0, done.output
    built, installed, asked = calls.read_text().splitlines()
    assert "pip wheel" in built
    assert "--no-cache-dir" in built
    assert "llama-cpp-python==" in built
    assert installed.startswith("-m pip install --force-reinstall --no-deps /")
    assert "kernels()" in asked
    assert "our kernels (AVX9)" in done.stdout
    assert "pass-edge setup --undo" in done.stdout
    assert "building: 1/3" in done.stderr
    assert "building: 3/3" in done.stderr


def test_undo_installs_what_the_index_has(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("undone", "1")
    done = run("setup", "--undo")
    assert done.exit_code == 0, done.output
    built, installed, _ = calls.read_text().splitlines()
    assert "--no-cache-dir" not in built, "pip may have it already"
    assert installed.startswith("-m pip install")
    assert "its own kernels" in done.stdout
    assert "--undo" not in done.stdout
    assert "unless pip has kept it" in done.stderr


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_failed_build_changes_nothing_and_shows_why(
    backend: str, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine("Linux", "Some CPU", gpus=("9.0",), nvcc="/usr/bin/nvcc")
    monkeypatch.setattr(plan, "inspect_machine", lambda: machine)
    monkeypatch.setenv("BROKEN", "1")
    done = run("setup", "--backend", backend)
    assert done.exit_code == 2
    assert len(calls.read_text().splitlines()) == 1
    assert "the compiler gave up" in done.stderr
    assert "Nothing was changed" in done.stderr
    assert ("Without cuda: pass-edge setup --backend cpu" in done.stderr) == (backend == "cuda")


def test_ctrl_c_ends_the_build_and_changes_nothing(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, pretended = tmp_path / "started", sys.executable
    monkeypatch.setenv("SLOW", str(started))
    code = (
        f"import sys; sys.executable = {pretended!r}; from pass_edge.commands import setup; "
        "setup.has_compilers = lambda: True; from pass_edge.__main__ import main; main(['setup'])"
    )
    process = subprocess.Popen(
        [REAL, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    until(started.exists)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "nothing was changed" in errors
    assert len(calls.read_text().splitlines()) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_a_compiler_setup_says_what_to_install(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "has_compilers", lambda: False)
    done = run("setup")
    assert done.exit_code == 2
    assert "sudo apt install" in done.stderr
    assert not calls.exists()


def test_without_pip_setup_says_how_to_get_it(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("setup")
    assert done.exit_code == 2
    assert "ensurepip" in done.stderr
    assert not calls.exists()


def test_in_a_checkout_that_is_not_installed_setup_says_so(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_version, "requires", lambda _: _not_installed())
    done = run("setup")
    assert done.exit_code == 2
    assert "PaSS Edge is not installed" in done.stderr
    assert not calls.exists()


def _not_installed() -> None:
    raise PackageNotFoundError


def test_a_backend_that_cannot_be_built_is_refused(calls: Path) -> None:
    done = run("setup", "--backend", "metal")
    assert done.exit_code == 2
    assert "needs macOS" in done.stderr


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("able", [True, False])
def test_doctor_advises_setup_only_where_kernels_are_missing_and_can_run(
    built: bool, able: bool, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = frozenset({"avx2", "fma", "f16c"} if able else ())
    machine = Machine("Linux", "Some CPU", cpu_flags=flags)
    monkeypatch.setattr(plan, "inspect_machine", lambda: machine)
    monkeypatch.setattr(doctor, "has_kernels", lambda: built)
    advice = " ".join(doctor.examine(tiny_path)["advice"])
    assert ("pass-edge setup" in advice) == (able and not built)


@pytest.mark.parametrize(
    ("built", "able", "advice"),
    [
        (False, True, "pass-edge setup"),
        (False, False, "pass-edge quantize"),
        (True, True, "pass-edge quantize"),
    ],
)
def test_a_model_that_llama_cpp_is_slow_for_is_told_of_our_kernels_where_they_can_run(
    built: bool, able: bool, advice: str, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(tiny_path, tmp_path / "q4_1.gguf", "Q4_1")
    monkeypatch.setattr(schedule_choice, "kernels", str)
    monkeypatch.setattr(schedule_choice, "has_kernels", lambda: built)
    monkeypatch.setattr(schedule_choice, "can_run_kernels", lambda: able)
    with Engine(tmp_path / "q4_1.gguf") as engine:
        (note,) = [note for note in engine.notes if "Q4_1" in note]
    assert advice in note
