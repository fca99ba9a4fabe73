"""The queue in front of the engine: some requests are answered, some wait in order, the rest are refused.

Generations would also wait for a free session of the engine. This queue exists because a client must learn
at once that the server is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pass_edge.native.errors import SettingsError

from .errors import BusyError

SHUTTING_DOWN = "the server is shutting down"


class AdmissionQueue:
    """Admits a limited number of requests and answers ``parallel`` of them at a time, in order of arrival.

    Attributes: ``size``, the admitted requests, waiting or being answered; ``active``, those being answered;
    ``parallel``, the number of slots.
    """

    def __init__(self, max_waiting: int, parallel: int = 1) -> None:
        """Raises SettingsError if ``max_waiting`` is negative."""
        if max_waiting < 0:
            raise SettingsError(f"queue is {max_waiting}; it must be 0 or more")
        self._max_size = max_waiting + parallel
        self._closed = False
        self._slots = asyncio.Semaphore(parallel)
        self.parallel = parallel
        self.size = self.active = 0

    @property
    def is_closed(self) -> bool:
        """Whether the queue admits no more requests."""
        return self._closed

    def close(self) -> None:
        """Admit no more requests; those admitted stay."""
        self._closed = True

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a free slot, and hold it."""
        async with self._slots:
            self.active += 1
            try:
                yield
            finally:
                self.active -= 1

    def enter(self) -> Place:
        """Admit a request. Raises BusyError if the queue is full or closed."""
        if self._closed:
            raise BusyError(503, SHUTTING_DOWN)
        if self.size >= self._max_size:
            raise BusyError(429, f"the server is busy with {self.size} requests; try again soon")
        self.size += 1
        return Place(self)


class Place:
    """The place of one admitted request. Leave it, or use it as a context manager."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self._queue: AdmissionQueue | None = queue

    def leave(self) -> None:
        """Give the place up; safe to call twice."""
        if self._queue:
            self._queue.size -= 1
            self._queue = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
