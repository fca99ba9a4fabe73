"""pass-edge setup: llama.cpp with our kernels, built for this machine and installed into this environment."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pass_edge.native.errors import LibraryError
from pass_edge.native.llama_build.backends import BACKENDS
from pass_edge.native.llama_build.compiler import NO_COMPILER, has_compilers
from pass_edge.native.llama_build.plan import plan_here
from pass_edge.native.llama_build.wheel import wheel_command
from pass_edge.native.llama_version import requirement

from .terminal.output import INTERRUPTED, flag_interrupts, stage_progress

_STEP = re.compile(r"\[\s*(\d+)(?:/(\d+)|%)\]")  # ninja counts steps, make counts percent
_LOG_SHOWN = 25  # lines
_PATIENCE = 10  # seconds for a stopped build to end


@click.command()
@click.option("--backend", type=click.Choice(BACKENDS), help="Build this one, not the best one here.")
@click.option("--undo", is_flag=True, help="Install llama-cpp-python without our kernels again.")
def setup(backend: str | None, undo: bool) -> None:
    """Build llama.cpp with our kernels for this machine, and install it.

    It goes into the Python environment that pass-edge is in. This needs a C++ compiler and minutes. Ctrl-C
    stops it and leaves everything as it was.

    \b
    pass-edge setup
    pass-edge setup --backend cuda
    pass-edge setup --undo
    """
    if importlib.util.find_spec("pip") is None:
        raise LibraryError(f"this environment has no pip. Install it: {sys.executable} -m ensurepip")
    if not has_compilers():
        raise LibraryError(NO_COMPILER)
    try:
        with tempfile.TemporaryDirectory(prefix="pass-edge-setup-") as folder:
            _install(_build(Path(folder), backend, undo))
    except KeyboardInterrupt:
        click.echo("\nInterrupted; nothing was changed.", err=True)
        sys.exit(INTERRUPTED)
    click.echo(_in_use())
    if not undo:
        click.echo("Undo it with: pass-edge setup --undo")


def _build(folder: Path, backend: str | None, undo: bool) -> Path:
    """Build the wheel into ``folder`` and return its path; with ``undo`` as the package index has it, which
    pip may have kept. Raises LibraryError."""
    needed = requirement()
    if not needed:
        raise LibraryError(
            "PaSS Edge is not installed in this environment. Install it: pip install pass-edge"
        )
    advice = ""
    if undo:
        command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps"]
        command, environment = [*command, "--wheel-dir", str(folder), needed], dict(os.environ)
    else:
        try:
            plan = plan_here(backend)
        except ValueError as error:
            raise LibraryError(str(error)) from error
        click.echo("\n".join(plan.reasons), err=True)
        command, environment = wheel_command(needed, folder, plan)
        if plan.backend != "cpu":
            advice = f". Without {plan.backend}: pass-edge setup --backend cpu"
    unless = ", unless pip has kept it" if undo else ""
    click.echo(f"llama.cpp is downloaded and built, which takes minutes{unless}.", err=True)
    _run(command, {**environment, "TMPDIR": str(folder)}, advice)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _run(command: list[str], environment: dict[str, str], advice: str) -> None:
    """Run a build and show its progress. Raises LibraryError with ``advice``, after the end of its output, if
    it fails."""
    log: deque[str] = deque(maxlen=_LOG_SHOWN)
    with stage_progress() as note, _started(command, environment) as process:
        for line in process.stdout or ():
            log.append(line)
            if step := _STEP.search(line):
                note("building", int(step[1]), int(step[2] or 100), "")
        status = process.wait()
    if status:
        click.echo("".join(log), err=True)
        raise LibraryError(
            f"llama.cpp could not be built; its output ends above. Nothing was changed{advice}"
        )


@contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and end it with all that it started if the caller is interrupted."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _install(wheel: Path) -> None:
    """Replace the installed llama-cpp-python by ``wheel``. Ctrl-C waits for it. Raises LibraryError."""
    command = [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps", str(wheel)]
    with flag_interrupts():
        done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        raise LibraryError(f"pip could not install llama.cpp: {done.stderr.strip()}")


def _in_use() -> str:
    """Describe the kernels of the installed library; this process has loaded the one before it."""
    code = "from pass_edge.native.library import kernels; print(kernels())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise LibraryError(f"the library was installed, but cannot be loaded: {done.stderr.strip()}")
    kernels = done.stdout.strip()
    return f"llama.cpp is installed, with {f'our kernels ({kernels})' if kernels else 'its own kernels'}."
