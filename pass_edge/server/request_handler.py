"""Answering a request: admit it, wait for a slot, generate, and stop if the client disconnects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import fields
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pass_edge import Engine
from pass_edge.native.errors import PassEdgeError
from pass_edge.native.file_kind import Kind
from pass_edge.openai.answers import Answer
from pass_edge.openai.embeddings import EmbeddingAnswer

from .admission import Place
from .errors import BusyError, error_object, json_response, status_and_code
from .metrics import Metrics
from .model_pool import ModelPool, ServedModel
from .request_fields import IGNORED_HEADER, ignored_fields

_SEND_SECONDS = 30.0  # a client that reads nothing for so long counts as disconnected
_CLIENT_DISCONNECTED = 499
T = TypeVar("T")
AnyAnswer = Answer | EmbeddingAnswer


class RequestHandler:
    """Answers requests, as many at a time as the queue of their model has slots."""

    def __init__(self, pool: ModelPool, metrics: Metrics, time_limit: float) -> None:
        """``time_limit``: the seconds that an answer may take once it has a slot."""
        self._pool = pool
        self._metrics = metrics
        self._time_limit = time_limit

    async def respond(
        self,
        request: Request,
        body: Any,
        kind: Kind,
        start_answer: Callable[[Any, Any], AnyAnswer],
        *,
        stream: bool = False,
    ) -> Response:
        """Return the response to ``request`` by a model of ``kind``. ``body``: the fields of the request, a
        dataclass. ``start_answer`` makes the answer out of an engine and its request, in a thread.

        The answer ends early if the client disconnects. Raises HTTPException if there is no such model or it
        cannot be loaded, BusyError, and what ``start_answer`` raises.
        """
        ignored = ignored_fields(await request.json(), known={each.name for each in fields(body)})
        headers = {IGNORED_HEADER: ", ".join(ignored)} if ignored else {}
        model = self._pool.find(body.model, kind)
        with ExitStack() as held:
            held.enter_context(self._enter(model))
            engine = await _unless_disconnected(request, self._pool.hold(model, held))
            if engine is None:
                return Response(status_code=_CLIENT_DISCONNECTED)
            answer = await run_in_threadpool(start_answer, engine, body.request(model.name))
            if stream and isinstance(answer, Answer):
                return _EventStream(self._events(model, answer), held.pop_all(), headers)
            result = await _unless_disconnected(request, self._result(model, answer))
        if result is None:
            return Response(status_code=_CLIENT_DISCONNECTED)
        return json_response(result, headers=headers)

    async def ask(self, name: str | None, question: Callable[[Engine, ServedModel], T]) -> T:
        """Return what ``question`` says, in a thread, of the engine of the model ``name``, which writes text.
        Raises HTTPException as ``respond``, and what ``question`` raises."""
        model = self._pool.find(name, Kind.TEXT)
        with ExitStack() as held:
            engine = await self._pool.hold(model, held)
            return await run_in_threadpool(question, engine, model)  # type: ignore[arg-type]

    def _enter(self, model: ServedModel) -> Place:
        try:
            return model.queue.enter()
        except BusyError:
            self._metrics.count_refusal()
            raise

    async def _result(self, model: ServedModel, answer: AnyAnswer) -> dict[str, Any]:
        async with self._slot(model, answer):
            return await answer.aresult()

    async def _events(self, model: ServedModel, answer: Answer) -> AsyncIterator[dict[str, str]]:
        async with self._slot(model, answer), aclosing(aiter(answer)) as chunks:
            chunk: dict[str, Any] = {}
            try:
                async for chunk in chunks:
                    yield _event(chunk)
            except PassEdgeError as error:
                yield _event(_error_after(chunk, error))
                return
        if "object" in chunk:  # it is OpenAI's protocol that has this event, llama.cpp's own has not
            yield {"data": "[DONE]"}

    @asynccontextmanager
    async def _slot(self, model: ServedModel, answer: AnyAnswer) -> AsyncIterator[None]:
        """Wait for a slot and hold it, for as long as the time limit allows."""
        async with model.queue.slot():
            timer = asyncio.get_running_loop().call_later(self._time_limit, answer.cancel)
            began = time.perf_counter()
            try:
                yield
            finally:
                timer.cancel()
                self._metrics.count_answer(answer, time.perf_counter() - began)


class _EventStream(EventSourceResponse):
    """Server-sent events. What the request holds is given back when they end, or when they never begin."""

    def __init__(
        self, events: AsyncIterator[dict[str, str]], held: ExitStack, headers: dict[str, str]
    ) -> None:
        super().__init__(events, headers=headers, sep="\n", send_timeout=_SEND_SECONDS)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held, suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


def _event(chunk: dict[str, Any]) -> dict[str, str]:
    """A chunk as an event, which has a name if the chunk has a type: those of responses have one."""
    name = {"event": chunk["type"]} if "type" in chunk else {}
    return {**name, "data": json.dumps(chunk)}


def _error_after(chunk: dict[str, Any], error: PassEdgeError) -> dict[str, Any]:
    """The chunk that tells of an error after ``chunk``."""
    status, code = status_and_code(error)
    described = error_object(status, str(error), code=code)
    if "type" not in chunk:
        return described
    return {**described["error"], "type": "error", "sequence_number": chunk["sequence_number"] + 1}


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of ``work``; if the client disconnects first, cancel ``work`` and return None."""
    working, disconnected = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, disconnected), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, disconnected):
            task.cancel()
        await asyncio.wait((working, disconnected))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
