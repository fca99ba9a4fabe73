"""Output of the commands: notes and progress; and Ctrl-C while they run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from threading import Timer, main_thread
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

INTERRUPTED = 130
"""The exit status after Ctrl-C, by the convention of shells."""


def open_streams() -> None:
    """Make the standard streams usable: closed ones are empty, and a character that the terminal or file
    cannot represent becomes a question mark."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 — open as long as the process
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def discard(stream: TextIO) -> None:
    """Send what is still in the buffer of ``stream``, which cannot be written, and what follows to nowhere:
    Python would report a second error when it ends."""
    with suppress(OSError, ValueError):  # a stream in memory has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def has_styles() -> bool:
    """Return whether the user allows colors and other escape codes (https://no-color.org, TERM=dumb)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def console(**options: Any) -> Console:
    """Return rich's console; without escape codes if the user wants none."""
    from rich.console import Console

    return Console(highlight=False, force_terminal=None if has_styles() else False, **options)


def quiet(text: str, *, ends_line: bool = True) -> None:
    """Print dim text on standard error, if that can be written: an answer is worth more than a note."""
    try:
        click.secho(text, dim=True, nl=ends_line, err=True, color=None if has_styles() else False)
    except OSError:
        discard(sys.stderr)


def size_text(n_bytes: int) -> str:
    """Return a size in MiB or GiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


@contextmanager
def redeliver_interrupts() -> Iterator[None]:
    """Send a Ctrl-C that arrives during a callback from llama.cpp, such as its log, once more after it.

    No exception passes through C, so Python would print and drop the KeyboardInterrupt.
    """
    before = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            before(dropped)
            return
        again = Timer(0.02, signal.pthread_kill, (main_thread().ident, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def flag_interrupts() -> Iterator[list[bool]]:
    """Make Ctrl-C fill the yielded list instead of raising in the middle of a step."""
    flag: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: flag.append(True))
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def tensor_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error; yield the function that moves it: (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tensors"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar for each download on standard error, or lines if it is not a terminal. Yield the
    function that moves them: (file, bytes done, bytes in all). Without downloads, nothing is imported."""
    bar: Progress | None = None
    tasks: dict[str, TaskID] = {}
    shown: dict[str, int] = {}

    def note(file: str, done: int, total: int) -> None:
        nonlocal bar
        if not sys.stderr.isatty():
            if (tenths := done * 10 // total) != shown.get(file):
                shown[file] = tenths
                quiet(f"{file}: {done / 2**20:.0f} of {total / 2**20:.0f} MiB")
            return
        bar = bar or _started_byte_bar()
        if file not in tasks:
            tasks[file] = bar.add_task(file, total=total)
        bar.update(tasks[file], completed=done)

    try:
        yield note
    finally:
        if bar:
            bar.stop()


def _started_byte_bar() -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    name, rest = TextColumn("{task.description}", markup=False), TimeRemainingColumn(compact=True)
    columns = (name, BarColumn(bar_width=20), DownloadColumn(binary_units=True), TransferSpeedColumn(), rest)
    bar = Progress(*columns, console=console(stderr=True))
    bar.start()
    return bar


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """Show a progress bar for each stage on standard error, or lines if it is not a terminal.

    Yield the function that moves them: (stage, done, total, status).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    errors = console(stderr=True)
    columns = (
        TextColumn("{task.description:13}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[status]}"),
    )
    tasks: dict[str, TaskID] = {}
    shown: dict[str, int] = {}

    def note(stage: str, done: int, total: int, status: str) -> None:
        if not errors.is_terminal:
            if (twentieths := done * 20 // total) != shown.get(stage):
                shown[stage] = twentieths
                quiet(f"{stage}: {done}/{total} {status}".rstrip())
            return
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total, completed=done, status=status)
        bar.update(tasks[stage], completed=done, total=total, status=status)

    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        yield note


def run_beside(work: Callable[[], None], unfinished: Path) -> None:
    """Run ``work`` in a thread. Ctrl-C removes the file ``unfinished`` and ends the process.

    In the main thread, Ctrl-C would wait for the native call to return.
    """
    from concurrent.futures import ThreadPoolExecutor
    from concurrent.futures import wait as wait_for

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            while not wait_for([future], timeout=0.2).done:
                pass
        except KeyboardInterrupt:
            unfinished.unlink(missing_ok=True)
            click.echo("\nInterrupted; nothing was written.", err=True)
            os._exit(INTERRUPTED)
    future.result()
