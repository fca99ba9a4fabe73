"""The one thread of this process that computes with ggml.

OpenMP keeps a team of threads for every thread that has computed. Once all teams together have more threads
than there are cores, every thread sleeps at each barrier instead of spinning: with a second decoding thread,
passes took two to four times as long on two cores. So one thread computes for all callers. Handing it work
takes about 30 µs.
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
    """Run ``work`` in the computing thread; return its result, or raise its error. An interrupt during the
    wait (Ctrl-C, or an error raised by a signal handler) is raised when ``work`` is done, because the memory
    that it uses must not be freed before. ``work`` may call ``compute`` itself, but must not wait for another
    thread that does."""
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
