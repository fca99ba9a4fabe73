"""Where requests are answered: a place in the line, a turn at the engine, and an eye on the client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pass_edge.native.errors import PassEdgeError
from pass_edge.openai.answers import Answer

from .admission import AdmissionQueue, Place
from .errors import BusyError, as_json, error_object, told
from .metrics import Metrics

_SEND_SECONDS = 30.0  # a client that reads nothing for so long is taken for gone
_CLIENT_GONE = 499


class RequestHandler:
    """Answers as many requests at a time as the line has turns."""

    def __init__(self, line: AdmissionQueue, metrics: Metrics, time_limit: float) -> None:
        self._line = line
        self._metrics = metrics
        self._time_limit = time_limit

    async def respond(self, request: Request, make: Callable[[], Answer], *, stream: bool) -> Response:
        """The response to ``request``, for which ``make`` makes an answer (or raises). A client that goes
        away ends it. Raises BusyError, PassEdgeError."""
        place = self._enter()
        try:
            answer = await run_in_threadpool(make)
            if stream:
                return _Stream(self._events(answer), place)
            whole = await _unless_gone(request, self._whole(answer))
        except BaseException:
            place.leave()
            raise
        place.leave()
        return as_json(whole) if whole is not None else Response(status_code=_CLIENT_GONE)

    def _enter(self) -> Place:
        try:
            return self._line.enter()
        except BusyError:
            self._metrics.refused()
            raise

    async def _whole(self, answer: Answer) -> dict[str, Any]:
        async with self._turn(answer):
            return await answer.awhole()

    async def _events(self, answer: Answer) -> AsyncIterator[dict[str, str]]:
        async with self._turn(answer), aclosing(aiter(answer)) as chunks:
            try:
                async for chunk in chunks:
                    yield {"data": json.dumps(chunk)}
            except PassEdgeError as error:
                status, code = told(error)
                yield {"data": json.dumps(error_object(status, str(error), code=code))}
                return
        yield {"data": "[DONE]"}

    @asynccontextmanager
    async def _turn(self, answer: Answer) -> AsyncIterator[None]:
        async with self._line.turn():
            limit = asyncio.get_running_loop().call_later(self._time_limit, answer.cancel)
            began = time.perf_counter()
            try:
                yield
            finally:
                limit.cancel()
                self._metrics.answered(answer, time.perf_counter() - began)


class _Stream(EventSourceResponse):
    """Events, and the place that is left when they end, whether or not they ever began."""

    def __init__(self, events: AsyncIterator[dict[str, str]], place: Place) -> None:
        super().__init__(events, sep="\n", send_timeout=_SEND_SECONDS)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place, suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any] | None:
    """What ``work`` gives; None, with the work cancelled, once the client has gone."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.wait((working, gone))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
