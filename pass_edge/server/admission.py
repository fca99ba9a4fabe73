"""The line in front of the engine: some requests are answered, some wait in order, the rest is sent away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import BusyError


class AdmissionQueue:
    """A ``turn`` is held by each request that is answered, and goes to the others as they came.

    Attributes: ``size``, how many have a place, those being answered included; ``answering``, how many of
    them are answered, and ``parallel``, how many may be at once.
    """

    def __init__(self, queue: int, parallel: int = 1) -> None:
        """``queue``: how many may wait."""
        self._most = queue + parallel
        self._closed = False
        self._turns = asyncio.Semaphore(parallel)
        self.parallel = parallel
        self.size = self.answering = 0

    @property
    def is_closed(self) -> bool:
        """Whether no more places are given."""
        return self._closed

    def close(self) -> None:
        """Give no more places; those who have one keep it."""
        self._closed = True

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        async with self._turns:
            self.answering += 1
            try:
                yield
            finally:
                self.answering -= 1

    def enter(self) -> Place:
        """A place at the end. Raises BusyError if there is none."""
        if self._closed:
            raise BusyError(503, "the server is shutting down")
        if self.size >= self._most:
            raise BusyError(429, f"{self.size} requests are being answered or wait already; try again soon")
        self.size += 1
        return Place(self)


class Place:
    """One request's place; leave it, or use it as a context manager."""

    def __init__(self, line: AdmissionQueue) -> None:
        self._line: AdmissionQueue | None = line

    def leave(self) -> None:
        """Free it; safe to call twice."""
        if self._line:
            self._line.size -= 1
            self._line = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
