"""Which generation uses which session: as many at a time as there are sessions, in the order of asking."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pass_edge.native.errors import LibraryError, SettingsError

from .session import Session


class _Slot:
    """A session, the generation that holds it, in which thread, and when it was last acquired."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.holder: object | None = None
        self.thread: int | None = None
        self.acquired = 0


class SlotPool:
    """A generation holds a session from its first step until it ends or is dropped; other threads wait for
    one.

    A thread may ask again during its own generation (it left a loop early, or alternates between several). If
    none is free then, it takes the session of its own oldest generation, which cannot go on while the thread
    waits; that generation asks again at its next step.
    """

    def __init__(self, sessions: Iterable[Session]) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._slots = [_Slot(session) for session in sessions]
        self._acquired = 0
        self._process = os.getpid()
        self._closed = False

    def check(self) -> None:
        """Raise SettingsError once closed, LibraryError in a process forked from the one this was made in:
        there, llama.cpp's threads are gone, and one of them may have held a lock."""
        if os.getpid() != self._process:
            raise LibraryError(
                f"this engine belongs to process {self._process}, which was forked; "
                "llama.cpp does not survive that, so make an engine in the new process"
            )
        if self._closed:
            raise SettingsError("this engine has been closed")

    def acquire(self, holder: object, prompt: Sequence[int]) -> tuple[Session, bool]:
        """Return the session that ``holder`` has, or wait for one; and whether it is newly acquired, so that
        it may hold another conversation now. Of the free sessions, take the one that holds most of ``prompt``
        if that is half of it, else the one used least recently. Raises as ``check``."""
        self.check()
        with self._changed:
            slot = self._slot_of(holder)
            is_new = slot is None
            if slot is None:
                self._wait_for_slots(holder, 1)
                slot = self._best(prompt)
                slot.holder = holder
            slot.thread = threading.get_ident()
            self._acquired += 1
            slot.acquired = self._acquired
            return slot.session, is_new

    @contextmanager
    def held(self, prompt: Sequence[int]) -> Iterator[Session]:
        """Hold a session for as long as a ``with`` block takes. Raises as ``acquire``."""
        holder = object()
        session, _ = self.acquire(holder, prompt)
        try:
            yield session
        finally:
            self.release(holder)

    def release(self, holder: object) -> None:
        """Free the session of ``holder``, if it has one."""
        if os.getpid() != self._process:
            return
        with self._changed:
            if slot := self._slot_of(holder):
                self._free(slot)

    def close(self) -> bool:
        """Wait until all sessions are free, and let nobody acquire one any more. Return whether this call
        closed it."""
        if self._closed or os.getpid() != self._process:
            return False
        with self._changed:
            self._wait_for_slots(self, len(self._slots))
            self._closed = True
            self._changed.notify_all()
        return True

    def _wait_for_slots(self, holder: object, count: int) -> None:
        """Wait until ``count`` slots are free, and ``holder`` is the next in line."""
        missing = count + len(self._waiting) - len(self._free_slots())
        own = [slot for slot in self._slots if slot.thread == threading.get_ident()]
        for slot in sorted(own, key=lambda slot: slot.acquired)[: max(0, missing)]:
            self._free(slot)
        self._waiting.append(holder)
        try:
            self._changed.wait_for(
                lambda: self._closed or (len(self._free_slots()) >= count and self._waiting[0] is holder)
            )
        finally:
            self._waiting.remove(holder)
            self._changed.notify_all()
        self.check()

    def _best(self, prompt: Sequence[int]) -> _Slot:
        def preference(slot: _Slot) -> tuple[int, int]:
            shared = slot.session.shared_with(prompt)
            return shared if 2 * shared >= len(prompt) else 0, -slot.acquired

        return max(self._free_slots(), key=preference)

    def _free_slots(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.holder is None]

    def _slot_of(self, holder: object) -> _Slot | None:
        return next((slot for slot in self._slots if slot.holder is holder), None)

    def _free(self, slot: _Slot) -> None:
        slot.holder = slot.thread = None
        self._changed.notify_all()
