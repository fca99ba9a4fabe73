"""What an installation holds: one package with all its modules, and no heavy library on import."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pass_edge", "native", "convert", "cli.py", "pyproject.toml", "LICENSE", "README.md")
ROOMS = sorted(path.parent.name for path in (ROOT / "pass_edge").glob("*/__init__.py"))


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code as a stranger would: in another process, away from the checkout."""
    return subprocess.run([sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: a build in place would leave its traces there."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored, symlinks=True)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" of ``source`` in ``folder``, as pip does without isolation."""
    code = f"import sys, setuptools.build_meta as backend; backend.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def modules(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_one_package_and_nothing_beside_it(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"pass_edge"}


def test_the_wheel_holds_every_module_and_the_package_data(wheel: Path) -> None:
    expected = {"pass_edge/py.typed", "pass_edge/__main__.py"}
    for folder in ("pass_edge", "native", "convert"):
        place = "pass_edge" if folder == "pass_edge" else f"pass_edge/{folder}"
        expected |= {f"{place}/{path.relative_to(ROOT / folder)}" for path in (ROOT / folder).rglob("*.py")}
    expected |= {"pass_edge/native/build.cmake", "pass_edge/server/page.html"}
    expected |= {"pass_edge/commands/bench_report.html"}
    for folder in ("kernels", "variants"):
        expected |= {
            f"pass_edge/native/{folder}/{path.name}" for path in (ROOT / "native" / folder).iterdir()
        }
    expected |= {f"pass_edge/data/{path.name}" for path in (ROOT / "pass_edge/data").glob("*.gguf")}
    assert modules(wheel) == expected


def test_a_source_distribution_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", source, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert modules(build("wheel", unpacked, tmp_path)) == modules(wheel)


def test_an_editable_installation_runs_from_its_source(source: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    executable = tmp_path / "bin" / "python"
    site = next(tmp_path.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(str(Path(numpy.__file__).parents[1]))
    pip("--python", str(executable), "install", "--no-deps", "--no-build-isolation", "-e", str(source))
    code = "import pass_edge.native, pass_edge.convert; print(pass_edge.native.__file__)"
    done = subprocess.run([str(executable), "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(source / "pass_edge/native/__init__.py"), done.stderr
    command = [str(tmp_path / "bin" / "pass-edge"), "--version"]
    assert "pass-edge" in subprocess.run(command, capture_output=True, text=True).stdout


@pytest.mark.parametrize("command", [["cli.py"], ["-m", "pass_edge"]], ids=" ".join)
def test_a_checkout_runs_without_being_installed(command: list[str], source: Path) -> None:
    done = subprocess.run([sys.executable, *command, "--help"], cwd=source, capture_output=True, text=True)
    assert done.stdout.startswith("Usage: pass-edge"), done.stderr


def test_an_installed_wheel_imports_its_own_modules(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    site = tmp_path / "site"
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import pass_edge.native as n; print(n.__file__)"
    assert python(code, tmp_path).stdout.strip() == str(site / "pass_edge/native/__init__.py")


@pytest.mark.parametrize("name", ["cli", "convert", "native", "server"])
def test_no_room_is_importable_at_top_level(name: str, tmp_path: Path) -> None:
    done = python(f"import {name}", tmp_path)
    assert f"No module named '{name}'" in done.stderr


@pytest.mark.parametrize("name", ["pass_edge", *(f"pass_edge.{room}" for room in ROOMS)])
def test_every_room_is_importable_under_its_name(name: str, tmp_path: Path) -> None:
    done = python(f"import {name}", tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_pass_edge_brings_no_heavy_or_terminal_library(tmp_path: Path) -> None:
    unwanted = {
        "torch",
        "transformers",
        "safetensors",
        "click",
        "rich",
        "prompt_toolkit",
        "fastapi",
        "uvicorn",
    }
    done = python(f"import pass_edge, sys; print(sorted({unwanted!r} & set(sys.modules)))", tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_only_the_tests_use_is_needed_by_nothing_else(tmp_path: Path) -> None:
    unwanted = {"openai", "httpx", "langchain_core", "langchain_community", "requests", "hypothesis"}
    code = "import sys, pass_edge.server.run, pass_edge.commands.serve; "
    done = python(f"{code}print(sorted({unwanted!r} & set(sys.modules)))", tmp_path)
    assert done.stdout.strip() == "[]", done.stderr
    needed = [each for each in requires("pass-edge") or () if re.match(r"(openai|httpx|langchain)\b", each)]
    assert all(re.search("extra == .dev.", each) for each in needed), needed
