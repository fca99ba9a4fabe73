"""What an installation holds: one package with all its modules, and no heavy library on import."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pass_edge", "native", "convert", "cli.py", "pyproject.toml", "LICENSE", "README.md")
ROOMS = sorted(path.parent.name for path in (ROOT / "pass_edge").glob("*/__init__.py"))


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code as a stranger would: in another process, away from the checkout."""
    return subprocess.run([sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy: a build in place would leave its traces in the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored, symlinks=True)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(built)]
    done = subprocess.run([*command, str(source)], cwd=built, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(built.glob("*.whl"))


def test_the_wheel_holds_one_package_and_nothing_beside_it(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"pass_edge"}


def test_the_wheel_holds_every_module_and_the_package_data(wheel: Path) -> None:
    expected = {"pass_edge/py.typed", "pass_edge/__main__.py"}
    for folder in ("pass_edge", "native", "convert"):
        place = "pass_edge" if folder == "pass_edge" else f"pass_edge/{folder}"
        expected |= {f"{place}/{path.relative_to(ROOT / folder)}" for path in (ROOT / folder).rglob("*.py")}
    expected |= {"pass_edge/native/build.cmake"}
    expected |= {f"pass_edge/native/kernels/{path.name}" for path in (ROOT / "native/kernels").iterdir()}
    expected |= {f"pass_edge/data/{path.name}" for path in (ROOT / "pass_edge/data").glob("*.gguf")}
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files == expected


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
    needed = [each for each in requires("pass-edge") or () if re.match("openai|httpx|langchain", each)]
    assert all(re.search("extra == .dev.", each) for each in needed), needed
