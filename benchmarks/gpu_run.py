"""The stages of gpu_measurements.py: each runs while there is time, and its results so far count."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from projection import ROWS

Result = dict[str, Any]
PartialResults = Generator[Result, None, None]
"""The results of a stage so far, yielded again after each new one."""


class DeadlineError(Exception):
    """The deadline has come."""


@contextmanager
def stopped_at(deadline: float) -> Iterator[None]:
    """Raise DeadlineError within the block, at ``deadline`` (seconds since 1970) or as soon as llama.cpp
    returns."""

    def stop(*_: object) -> None:
        raise DeadlineError

    before = signal.signal(signal.SIGALRM, stop)
    # repeatedly, because exceptions raised in llama.cpp's callbacks are dropped
    signal.setitimer(signal.ITIMER_REAL, min(max(1e-3, deadline - time.time()), 1e6), 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Run:
    """The settings and results of all measurements.

    ``given``: the shares of passes whose first 1, 2 … drafts are all right; by default they are counted here.
    ``report``: writes the report. ``results``: by stage. ``left_out``: stages that were not run, or not to
    the end, and why. ``counted``: shares as in ``given``, by schedule.
    """

    deadline: float
    scratch: Path
    widths: list[int]
    depths: list[int]
    tokens: int
    questions: int
    given: list[float] | None = None
    report: Callable[[], None] = lambda: None
    results: Result = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    counted: dict[str, list[float]] = field(default_factory=dict)

    @property
    def acceptance(self) -> dict[str, list[float]]:
        """The shares to project with, by schedule."""
        return dict.fromkeys(ROWS, self.given) if self.given else self.counted

    def stage(self, name: str, seconds: float, measure: Callable[[], PartialResults]) -> None:
        """Run a stage if about ``seconds`` are left for it. A stage that fails does not end the others."""
        if time.time() + seconds > self.deadline:
            self.left_out[name] = f"needs about {seconds:.0f} s, but less time was left"
        else:
            click.echo(f"{name} …")
            self.left_out[name] = "stopped at the deadline"  # until it has finished
            try:
                with stopped_at(self.deadline), closing(measure()) as partial_results:
                    for result in partial_results:
                        self.results[name] = result
                        self.report()
                del self.left_out[name]
            except DeadlineError:
                pass
            except Exception as error:  # the report of the other stages is worth more
                self.left_out[name] = f"{type(error).__name__}: {error}"
        self.report()
