"""The endpoints."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pass_edge import Engine

from . import errors
from .access import AccessMiddleware
from .admission import AdmissionQueue
from .metrics import Metrics
from .request_handler import RequestHandler
from .request_schemas import ChatBody, CompletionBody
from .response_schemas import ChatCompletion, Completion, ErrorBody, Health, ModelCard, ModelList
from .settings import ServerSettings

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request was refused."},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer."},
}


def _answers(model: type) -> dict[int | str, dict[str, Any]]:
    event = {"type": "object", "properties": {"data": {"type": "string"}}}
    events = {"text/event-stream": {"schema": event}}
    return {200: {"model": model, "content": events, "description": "The answer, or its events."}, **_ERRORS}


def create_app(engine: Engine, settings: ServerSettings, line: AdmissionQueue) -> FastAPI:
    """The ASGI application over ``engine``, which stays the caller's to close."""
    app = FastAPI(
        title="PaSS Edge",
        description="OpenAI's protocol over llama.cpp with Parallel Speculative Sampling.",
        version="1",
        responses=_ERRORS,
    )
    metrics = Metrics(line)
    desk = RequestHandler(line, metrics, settings.time_limit)
    name = settings.name or engine.model.path.stem
    card = ModelCard(
        id=name, created=int(time.time()), context_size=engine.context_size, schedule=engine.schedule
    )
    keyed = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])

    @keyed.post("/v1/completions", responses=_answers(Completion))
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Go on with a prompt."""
        asked = body.request(name)
        return await desk.respond(request, lambda: asked.answer(engine), stream=body.stream)

    @keyed.post("/v1/chat/completions", responses=_answers(ChatCompletion))
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        asked = body.request(name)
        return await desk.respond(request, lambda: asked.answer(engine), stream=body.stream)

    @keyed.get("/v1/models")
    async def models() -> ModelList:
        """The one model that there is."""
        return ModelList(data=[card])

    @keyed.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        """The model, by its name."""
        if model != name:
            raise HTTPException(404, f"there is no model {model!r}; there is {name!r}")
        return card

    @keyed.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/health")
    async def health() -> Health:
        """Whether new requests are taken, and how many could be answered at once."""
        if line.is_closed:
            raise HTTPException(503, "the server is shutting down")
        return Health(slots=line.parallel, slots_idle=line.parallel - line.answering)

    app.include_router(keyed)
    app.add_middleware(AccessMiddleware, settings=settings)
    errors.install(app)
    return app
