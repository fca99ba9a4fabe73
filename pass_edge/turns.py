"""Who may use an engine's session: one generation at a time, in the order in which they asked."""

from __future__ import annotations

import os
import threading
from collections import deque

from pass_edge.native.errors import LibraryError, SettingsError


class Turns:
    """A turn lasts from a generation's first step until it ends or is dropped; other threads wait for it.

    A thread that asks again in the middle of its own generation (it left a loop early, or runs two of them by
    turns) gets the turn: it could never end the older one while it waits. The older one asks anew at its
    next step.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._holder: object | None = None
        self._thread: int | None = None
        self._process = os.getpid()
        self._closed = False

    def check(self) -> None:
        """Raises SettingsError once closed, LibraryError in a process forked from the one this was made in:
        there, llama.cpp's threads are gone, and a lock may be held by one of them."""
        if os.getpid() != self._process:
            raise LibraryError(
                f"this engine belongs to process {self._process}, which was forked; "
                "llama.cpp does not survive that, so make an engine in the new process"
            )
        if self._closed:
            raise SettingsError("this engine has been closed")

    def take(self, who: object) -> bool:
        """Wait until it is ``who``'s turn. Returns whether somebody else's came before. Raises as
        ``check``."""
        self.check()
        with self._changed:
            if self._holder is not who:
                self._wait(who)
                self._holder = who
                return True
            self._thread = threading.get_ident()
            return False

    def _wait(self, who: object) -> None:
        if self._thread == threading.get_ident():
            self._let_go()
        self._waiting.append(who)
        try:
            self._changed.wait_for(lambda: self._closed or (not self._holder and self._waiting[0] is who))
        finally:
            self._waiting.remove(who)
            self._changed.notify_all()
        self.check()
        self._thread = threading.get_ident()

    def give(self, who: object) -> None:
        """The turn of ``who``, if it has it, is over."""
        if os.getpid() != self._process:
            return
        with self._changed:
            if self._holder is who:
                self._let_go()

    def close(self) -> bool:
        """Wait for the turn, and let nobody have one from now on. Returns whether it was still open, here."""
        if self._closed or os.getpid() != self._process:
            return False
        self.take(self)
        with self._changed:
            self._closed = True
            self._let_go()
        return True

    def _let_go(self) -> None:
        self._holder = self._thread = None
        self._changed.notify_all()
