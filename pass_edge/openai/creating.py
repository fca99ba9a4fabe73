"""Requests as methods of an engine: ``create_completion`` and its kin, with the requests' parameters."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from .formatters import Json
from .requests import Request

if TYPE_CHECKING:
    from pass_edge.engine import Engine

P = ParamSpec("P")


def creating(request: Callable[P, Request]) -> Callable[Concatenate[Engine, P], Json | Iterator[Json]]:
    """The method that answers a ``request`` with its parameters: the result object, or its chunks with
    ``stream``."""

    def create(engine: Engine, *given: P.args, **named: P.kwargs) -> Json | Iterator[Json]:
        asked = request(*given, **named)
        answer = asked.answer(engine)
        return iter(answer) if asked.stream else answer.whole()

    return _described(create, request)


def creating_later(
    request: Callable[P, Request],
) -> Callable[Concatenate[Engine, P], Awaitable[Json | AsyncIterator[Json]]]:
    """As ``creating``, to be awaited; chunks are for ``async for``."""

    async def create(engine: Engine, *given: P.args, **named: P.kwargs) -> Json | AsyncIterator[Json]:
        asked = request(*given, **named)
        answer = await asyncio.to_thread(asked.answer, engine)
        return aiter(answer) if asked.stream else await answer.awhole()

    return _described(create, request)


def _described(create: Any, request: Callable[P, Request]) -> Any:
    parameters = inspect.signature(request).parameters.values()
    engine = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    create.__signature__ = inspect.Signature([engine, *parameters])
    create.__doc__ = f"{request.__doc__}\n\nReturns the result as a dict; with ``stream``, its chunks."
    return create
