"""Who may use an engine's sessions: as many generations at a time as there are, in the order in which they
asked."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence

from pass_edge.native.errors import LibraryError, SettingsError

from .session import Session


class _Slot:
    """A session, who has it, in which thread, and when it was last taken."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.holder: object | None = None
        self.thread: int | None = None
        self.taken = 0


class SlotPool:
    """A turn lasts from a generation's first step until it ends or is dropped; other threads wait for it.

    A thread that asks again in the middle of its own generation (it left a loop early, or runs several of
    them by turns) gets a turn; if no session is free, that of its oldest generation, which it
    could never end while it waits. The older one asks anew at its next step.
    """

    def __init__(self, sessions: Iterable[Session]) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._slots = [_Slot(session) for session in sessions]
        self._taken = 0
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

    def take(self, who: object, prompt: Sequence[int]) -> tuple[Session, bool]:
        """Wait until it is ``who``'s turn. Returns the session to use, and whether it may hold something else
        now than ``who`` left there; of the free ones, it is the one that holds most of ``prompt``, if that is
        half of it, else the one that was used least recently. Raises as ``check``."""
        self.check()
        with self._changed:
            slot = self._slot_of(who)
            is_new = slot is None
            if slot is None:
                self._wait(who, 1)
                slot = self._best(prompt)
                slot.holder = who
            slot.thread = threading.get_ident()
            self._taken += 1
            slot.taken = self._taken
            return slot.session, is_new

    def give(self, who: object) -> None:
        """The turn of ``who``, if it has one, is over."""
        if os.getpid() != self._process:
            return
        with self._changed:
            if slot := self._slot_of(who):
                self._free(slot)

    def close(self) -> bool:
        """Wait for the turns, and let nobody have one from now on. Returns whether it was still open,
        here."""
        if self._closed or os.getpid() != self._process:
            return False
        with self._changed:
            self._wait(self, len(self._slots))
            self._closed = True
            self._changed.notify_all()
        return True

    def _wait(self, who: object, count: int) -> None:
        """Until ``count`` slots are free, and ``who`` is the next."""
        missing = count + len(self._waiting) - len(self._free_slots())
        mine = [slot for slot in self._slots if slot.thread == threading.get_ident()]
        for slot in sorted(mine, key=lambda slot: slot.taken)[: max(0, missing)]:
            self._free(slot)
        self._waiting.append(who)
        try:
            self._changed.wait_for(
                lambda: self._closed or (len(self._free_slots()) >= count and self._waiting[0] is who)
            )
        finally:
            self._waiting.remove(who)
            self._changed.notify_all()
        self.check()

    def _best(self, prompt: Sequence[int]) -> _Slot:
        def value(slot: _Slot) -> tuple[int, int]:
            shared = slot.session.shared_with(prompt)
            return shared if 2 * shared >= len(prompt) else 0, -slot.taken

        return max(self._free_slots(), key=value)

    def _free_slots(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.holder is None]

    def _slot_of(self, who: object) -> _Slot | None:
        return next((slot for slot in self._slots if slot.holder is who), None)

    def _free(self, slot: _Slot) -> None:
        slot.holder = slot.thread = None
        self._changed.notify_all()
