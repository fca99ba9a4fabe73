"""Iterate over a blocking generator, which waits for llama.cpp, without blocking the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")
_MAX_AHEAD = 8  # items made before they are taken
_END = object()


async def in_a_thread(items: Generator[T, None, None], cancel: Callable[[], None]) -> AsyncGenerator[T, None]:
    """Yield ``items``, which a thread of their own makes, up to eight ahead of the consumer.

    When the iteration ends, also by cancellation, ``cancel`` is called; it should end the item in progress.
    Raises what ``items`` raises.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[object] = asyncio.Queue()
    free, stopped = threading.Semaphore(_MAX_AHEAD), threading.Event()

    def make() -> None:
        end: object = _END
        try:
            with closing(items):
                for item in items:
                    loop.call_soon_threadsafe(queue.put_nowait, item)
                    free.acquire()
                    if stopped.is_set():
                        break
        except BaseException as error:
            end = _Failure(error)
        loop.call_soon_threadsafe(queue.put_nowait, end)

    thread = ThreadPoolExecutor(1, thread_name_prefix="pass-edge")
    thread.submit(make)
    try:
        while (item := await queue.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            free.release()
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        cancel()
        free.release()
        thread.shutdown(wait=False)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
