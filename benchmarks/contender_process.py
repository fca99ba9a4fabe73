"""Contenders in processes of their own, so that their threads do not disturb each other.

OpenMP keeps its threads as long as a process lives. If there are more of them than cores, all of them sleep
at every barrier: several libraries and servers in one process made each other half as fast.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
from answers import Answer, Contender

Opened = tuple[Contender, Sequence[str]]
"""A contender, and notes about it for the report."""


class ContenderProcess:
    """A contender in a process of its own. ``notes``: about it, for the report; ``idle``: the part of a core
    that it uses while it is not asked."""

    def __init__(self, name: str, opening: Callable[[], Opened], greeting: list[int]) -> None:
        """``opening``: picklable, makes the contender in its process, where it first answers ``greeting``."""
        self._name = name
        context = multiprocessing.get_context("spawn")  # a fork would inherit this process's OpenMP state
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, opening), daemon=True).start()
        theirs.close()
        self.notes, self.idle = self._ask(greeting)

    def __call__(self, ids: list[int]) -> Answer:
        answer: Answer = self._ask(ids)
        return answer

    def _ask(self, ids: list[int]) -> Any:
        try:
            self._pipe.send(ids)
            reply = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise click.ClickException(f"{self._name} died") from None
        if isinstance(reply, Exception):
            raise click.ClickException(f"{self._name}: {reply}")
        return reply


def _serve(pipe: Connection, opening: Callable[[], Opened]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process, and reports
    try:
        ids = pipe.recv()
        contender, notes = opening()
        contender(ids)
        pipe.send((notes, _idle_share()))
        while True:
            pipe.send(contender(pipe.recv()))
    except EOFError:  # the parent is gone
        return
    except Exception as error:  # the parent raises it
        pipe.send(RuntimeError(str(error)))


def _idle_share(seconds: float = 0.5) -> float:
    """Return the part of a core that this process and its children use while nothing is asked."""
    time.sleep(0.1)  # threads may wait actively for more work for a moment
    before = _cpu_seconds()
    time.sleep(seconds)
    return (_cpu_seconds() - before) / seconds


def _cpu_seconds() -> float:
    """Return the processor time of this process and, on Linux, of its children."""
    children = [
        pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()
    ]
    times = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in children)
    ticks = sum(int(user) + int(system) for user, system in times)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")
