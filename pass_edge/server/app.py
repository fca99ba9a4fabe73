"""The endpoints of the server."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pass_edge import Engine
from pass_edge.native.model_path import readable
from pass_edge.openai.complete import start

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


def _responses(model: type) -> dict[int | str, dict[str, Any]]:
    """Describe an endpoint that returns ``model``, or streams it as events."""
    event = {"type": "object", "properties": {"data": {"type": "string"}}}
    events = {"text/event-stream": {"schema": event}}
    return {200: {"model": model, "content": events, "description": "The answer, or its events."}, **_ERRORS}


def create_app(engine: Engine, settings: ServerSettings, queue: AdmissionQueue) -> FastAPI:
    """Return the ASGI application that serves ``engine``; the caller closes the engine."""
    app = FastAPI(
        title="PaSS Edge",
        description="OpenAI's protocol over llama.cpp with Parallel Speculative Sampling.",
        version="1",
        responses=_ERRORS,
    )
    metrics = Metrics(queue)
    handler = RequestHandler(queue, metrics, settings.time_limit)
    model_name = settings.name or readable(engine.model.path.stem)
    card = ModelCard(
        id=model_name, created=int(time.time()), context_size=engine.context_size, schedule=engine.schedule
    )
    with_key = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])

    @with_key.post("/v1/completions", responses=_responses(Completion))
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Complete a prompt."""
        start_answer = partial(start, engine, body.request(model_name))
        return await handler.respond(request, start_answer, stream=body.stream)

    @with_key.post("/v1/chat/completions", responses=_responses(ChatCompletion))
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        start_answer = partial(start, engine, body.request(model_name))
        return await handler.respond(request, start_answer, stream=body.stream)

    @with_key.get("/v1/models")
    async def models() -> ModelList:
        """List the model."""
        return ModelList(data=[card])

    @with_key.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        """Describe the model of this name."""
        if model != model_name:
            raise HTTPException(404, f"there is no model {model!r}; there is {model_name!r}")
        return card

    @with_key.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/health")
    async def health() -> Health:
        """Tell whether the server takes requests, and how many it could answer at once."""
        if queue.is_closed:
            raise HTTPException(503, "the server is shutting down")
        return Health(slots=queue.parallel, slots_idle=queue.parallel - queue.active)

    app.include_router(with_key)
    app.add_middleware(AccessMiddleware, settings=settings)
    errors.install(app)
    return app
