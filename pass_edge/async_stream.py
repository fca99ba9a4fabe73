"""Iterating over what blocks (a generation waits for llama.cpp) without blocking an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")
_AHEAD = 8
_END = object()


async def in_a_thread(items: Generator[T, None, None], cancel: Callable[[], None]) -> AsyncGenerator[T, None]:
    """The items, all made in one thread of their own, up to eight ahead, so that making them does not wait
    for what is done with them. Where the task that takes them is cancelled, or stops, ``cancel`` is called,
    which should let the one under way end soon."""
    loop = asyncio.get_running_loop()
    made: asyncio.Queue[object] = asyncio.Queue()
    room, stopped = threading.Semaphore(_AHEAD), threading.Event()

    def make() -> None:
        end: object = _END
        try:
            with closing(items):
                for item in items:
                    loop.call_soon_threadsafe(made.put_nowait, item)
                    room.acquire()
                    if stopped.is_set():
                        break
        except BaseException as error:
            end = _Failure(error)
        loop.call_soon_threadsafe(made.put_nowait, end)

    thread = ThreadPoolExecutor(1, thread_name_prefix="pass-edge")
    thread.submit(make)
    try:
        while (item := await made.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            room.release()
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        cancel()
        room.release()
        thread.shutdown(wait=False)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
