"""The line in front of the engine: one request is answered, some wait in order, the rest is sent away."""

from __future__ import annotations

import asyncio

from .errors import BusyError


class Line:
    """``turn`` is held by the request that is answered, and goes to the others as they came.

    Attributes: ``size``, how many have a place, the one being answered included; ``turn``.
    """

    def __init__(self, queue: int) -> None:
        """``queue``: how many may wait."""
        self._most = queue + 1
        self._closed = False
        self.size = 0
        self.turn = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        """Whether no more places are given."""
        return self._closed

    def close(self) -> None:
        """Give no more places; those who have one keep it."""
        self._closed = True

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

    def __init__(self, line: Line) -> None:
        self._line: Line | None = line

    def leave(self) -> None:
        """Free it; safe to call twice."""
        if self._line:
            self._line.size -= 1
            self._line = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
