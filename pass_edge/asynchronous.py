"""Iterating over what blocks (a generation waits for llama.cpp) without blocking an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


async def in_a_thread(items: Iterator[T], cancel: Callable[[], None]) -> AsyncGenerator[T, None]:
    """The items, each made in one thread of their own. Where the task that waits for them is cancelled, or
    stops iterating, ``cancel`` is called, which should let the one under way end soon."""
    loop = asyncio.get_running_loop()
    with_thread = ThreadPoolExecutor(1, thread_name_prefix="pass-edge")
    try:
        while (item := await loop.run_in_executor(with_thread, next, items, _END)) is not _END:
            yield item  # type: ignore[misc]
    finally:
        cancel()
        if isinstance(items, Generator):
            with_thread.submit(items.close)
        with_thread.shutdown(wait=False)
