"""Where llama-cpp-python cannot be loaded, one sentence says what to do, and what it says works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pass_edge.native import llama_version

ROOT = Path(__file__).resolve().parents[2]
SETUP = "build llama.cpp for this machine: pass-edge setup"
MISSING = "libgomp.so.1: cannot open shared object file: No such file or directory"
FAULTS = {
    "a library that it needs": (
        f"raise RuntimeError('Failed to load shared library: {MISSING}')",
        f"Install the system's package of libgomp.so.1, or {SETUP}",
    ),
    "its own library": (
        "raise FileNotFoundError('Shared library with base name llama not found')",
        SETUP.capitalize(),
    ),
    "a newer C library": ("raise OSError('version `GLIBC_2.99 not found')", SETUP.capitalize()),
    "itself": ("raise ModuleNotFoundError('No module', name='llama_cpp')", SETUP.capitalize()),
    "a part of itself": ("from llama_cpp.llama_cpp import llama", SETUP.capitalize()),
    "a package that it needs": (
        "raise ModuleNotFoundError('No module', name='diskcache.core')",
        "pip install diskcache",
    ),
    "functions of this version": (
        "raise AttributeError('undefined symbol: llama_memory_seq_rm')",
        SETUP.capitalize(),
    ),
}


def python(*arguments: str, fault: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python where importing llama_cpp runs ``fault``."""
    (folder / "llama_cpp").mkdir()
    (folder / "llama_cpp/__init__.py").write_text(fault + "\n")
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("lacks", FAULTS)
def test_one_sentence_says_what_to_do(lacks: str, tmp_path: Path) -> None:
    fault, advice = FAULTS[lacks]
    done = python("-m", "pass_edge", "generate", "Hello", fault=fault, folder=tmp_path)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("Error: llama-cpp-python cannot be loaded (")
    assert advice.lower() in sentence.lower()


@pytest.mark.parametrize(
    "arguments", ["", "--help", "chat", "doctor", "models", "serve", "bench", "inspect a"]
)
def test_all_commands_that_need_the_library_say_it(arguments: str, tmp_path: Path) -> None:
    fault = FAULTS["itself"][0]
    done = python("-m", "pass_edge", *arguments.split(), fault=fault, folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "pass-edge setup" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("setup --backend metal", "the metal backend needs macOS"),  # so it would build another one
        ("setup --help", "--undo"),
        ("completion bash", "_PASS_EDGE_COMPLETE"),
        ("--version", "llama-cpp-python 0.3.36, which does not work here"),
    ],
)
def test_what_repairs_it_runs(arguments: str, said: str, tmp_path: Path) -> None:
    done = python("-m", "pass_edge", *arguments.split(), fault=FAULTS["itself"][0], folder=tmp_path)
    assert said in done.stdout + done.stderr


UNSUPPORTED = {
    "older": ("0.2.90", "class llama_cpp: pass\n__version__ = '0.2.90'"),
    "newer": ("7.1", "class llama_cpp: pass\n__version__ = '7.1'"),
    "near": ("0.3.3", "class llama_cpp: pass\n__version__ = '0.3.3'"),
    "not importable": ("0.1.9", "raise TypeError('an old library on a new Python')"),
    "lacking a module": ("0.1.9", "raise ImportError('cannot import name llama_cpp')"),
}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        *((kind, ("-m", "pass_edge", "generate", "Hello")) for kind in UNSUPPORTED),
        ("older", ("-c", "from pass_edge import Engine")),
        ("older", ("-c", "from pass_edge import Llama")),
    ],
)
def test_another_version_is_named_with_the_one_that_is_needed(
    kind: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    version, fault = UNSUPPORTED[kind]
    info = tmp_path / f"llama_cpp_python-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {version}\n")
    done = python(*arguments, fault=fault, folder=tmp_path)
    assert done.returncode != 0
    (needed,) = re.findall(r"llama-cpp-python==([\d.]+)", (ROOT / "pyproject.toml").read_text())
    assert done.stderr.splitlines()[-1].endswith(
        f"Error: llama-cpp-python {version} is installed, but PaSS Edge works with {needed} only; "
        "build and install that version: pass-edge setup"
    )


@pytest.mark.parametrize(
    ("here", "fits"), [("{}", True), ("{}+cu124", True), ("{}.1", False), ("1{}", False)]
)
def test_builds_of_the_needed_version_fit(here: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = llama_version.requirement().partition("==")[2]
    monkeypatch.setattr("llama_cpp.__version__", here.format(needed))
    assert (llama_version.version_problem() == "") == fits


def test_a_program_can_catch_it(tmp_path: Path) -> None:
    code = (
        "import pass_edge\ntry:\n  pass_edge.Engine\nexcept pass_edge.LibraryError as error:\n  print(error)"
    )
    done = python("-c", code, fault=FAULTS["itself"][0], folder=tmp_path)
    assert "pass-edge setup" in done.stdout, done.stderr


def test_an_error_inside_is_not_taken_for_a_missing_name(tmp_path: Path) -> None:
    done = python("-c", "from pass_edge import Engine", fault="class llama_cpp: pass", folder=tmp_path)
    assert "no attribute 'llama_log_callback'" in done.stderr.splitlines()[-1]
