"""What all commands print: notes, answers as they come, figures, progress; and what Ctrl-C does meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import Timer, main_thread
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import TaskID

    from pass_edge import Generation, Stats

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""
_DEPTHS_TOLD = 4
DRAFTED = "cyan"
"""The shade of text that was drafted."""
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code != ord("\n")
}


def quiet(text: str) -> None:
    """A dim line on standard error."""
    click.secho(text, dim=True, err=True)


def summary(stats: Stats) -> str:
    """One line about an answer."""
    parts = [f"{stats.tokens_per_second:.1f} tokens/s", f"{stats.tokens_per_pass:.2f} tokens/pass"]
    if stats.acceptance:
        deeper = " …" if len(stats.acceptance) > _DEPTHS_TOLD else ""
        shares = " ".join(f"{share:.2f}" for share in stats.acceptance[:_DEPTHS_TOLD])
        parts.append(f"accepted {shares}{deeper}")
    return " · ".join([*parts, f"{stats.tokens} tokens"])


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Ctrl-C that lands in a callback of llama.cpp, such as its log's, is printed and dropped by Python,
    because no exception passes through C. Have it come once more, when the callback is over."""
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
def interruptible() -> Iterator[list[bool]]:
    """Ctrl-C sets the flag instead of raising, so that it can't cut a step in two."""
    flag: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: flag.append(True))
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


class Answer(Protocol):
    """Where an answer's text goes as it comes."""

    def feed(self, text: str, drafted: bool) -> None: ...

    def finish(self) -> None: ...


class PlainText:
    """An answer as it is; in another shade where it was drafted, if ``shows_drafts`` is set."""

    def __init__(self, *, shows_drafts: bool = False) -> None:
        self._shade = DRAFTED if shows_drafts else None

    def feed(self, text: str, drafted: bool) -> None:
        click.secho(text, nl=False, fg=self._shade if drafted else None)
        sys.stdout.flush()

    def finish(self) -> None:
        click.echo()


def show(generation: Generation, answer: Answer) -> None:
    """Print a generation as it comes. Ctrl-C ends it early, and before its first word it is a
    KeyboardInterrupt, because a long prompt takes long to read."""
    pieces = generation.pieces()
    first = next(pieces, None)
    in_terminal = sys.stdout.isatty()
    with interruptible() as stopped:
        for piece in chain([first] if first else [], pieces):
            for text, is_drafted in ((piece.drafted, True), (piece.sampled, False)):
                if text:
                    answer.feed(_harmless(text) if in_terminal else text, is_drafted)
            if stopped:
                break
    answer.finish()


def _harmless(text: str) -> str:
    """``text`` without what would command the terminal."""
    return text.replace("\t", "    ").translate(_CONTROLS)


@contextmanager
def tensor_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, and what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tensors"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """Progress bars on standard error, one for each stage, and what moves them; lines where it is no
    terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:13}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[how]}"),
    )
    tasks: dict[str, TaskID] = {}
    told: dict[str, int] = {}

    def note(what: str, done: int, total: int, how: str) -> None:
        if not console.is_terminal:
            if (share := done * 20 // total) != told.get(what):
                told[what] = share
                quiet(f"{what}: {done}/{total} {how}".rstrip())
            return
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total, completed=done, how=how)
        bar.update(tasks[what], completed=done, total=total, how=how)

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield note


def run_beside(work: Callable[[], None], unfinished: Path) -> None:
    """Do ``work`` in a thread, because Ctrl-C cannot reach into a native call: then the process ends
    and ``unfinished`` is removed."""
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
