"""Contenders in processes of their own: threads of one do not disturb another's.

OpenMP keeps its threads for as long as a process lives, and where there are more of them than cores, all of
them sleep at every barrier: several libraries and servers in one process made each other half as fast.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import click
from answers import Answer, Contender

Opened = tuple[Contender, Sequence[str]]
"""A contender, and what is to be known of it."""


class ContenderProcess:
    """A contender that ``opening`` (which must be picklable) gives, in a process of its own. ``notes``: what
    is to be known of it; ``idle``: the part of a core that it uses unasked."""

    def __init__(self, name: str, opening: Callable[[], Opened], greeting: list[int]) -> None:
        """It answers ``greeting`` first, so that all is warm."""
        self._name = name
        context = multiprocessing.get_context("spawn")  # a fork would inherit what this process computes with
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends it, and reports
    try:
        ids = pipe.recv()
        contender, notes = opening()
        contender(ids)
        pipe.send((notes, _idle_share()))
        while True:
            pipe.send(contender(pipe.recv()))
    except EOFError:  # nobody asks any more
        return
    except Exception as error:  # whatever it is, told to whoever asked
        pipe.send(RuntimeError(str(error)))


def _idle_share(seconds: float = 0.5) -> float:
    """The part of a core that this process uses while nothing is asked."""
    time.sleep(0.1)  # threads may look for more work for a moment
    began = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - began) / seconds
