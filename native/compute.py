"""The one thread of this process that computes with ggml.

OpenMP keeps a team of threads for every thread that ever computed, and once they are more than there are
cores, all of them sleep at each barrier instead of waiting awake: where a second thread of a program decoded,
passes took two to four times as long on two cores. So whoever asks, one thread computes; handing the work
over takes some 30 µs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from typing import TypeVar

T = TypeVar("T")


def compute(work: Callable[[], T]) -> T:
    """What ``work`` returns, done in that thread; or what it raises. What interrupts the wait (Ctrl-C, or
    what another signal's handler raises) is raised once it is done: what it computes on is not to be freed
    under it. Where ``work`` asks for ``compute`` itself, it is in that thread already; it must not wait for
    another thread that does."""
    if getattr(_this_thread, "computes", False):
        return work()
    future = _thread().submit(work)
    try:
        return future.result()
    except BaseException:
        while not future.done():
            with suppress(BaseException):
                wait([future])
        raise


_this_thread = threading.local()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "ggml", initializer=lambda: setattr(_this_thread, "computes", True))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_thread.cache_clear)  # a child has no threads but its own
