"""The endpoints of the server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from pass_edge import Engine
from pass_edge.native.embedder import Embedder
from pass_edge.native.model_path import readable
from pass_edge.openai.complete import prompt_text, start
from pass_edge.openai.embeddings import EmbeddingAnswer

from . import errors, properties, tokens
from .access import AccessMiddleware
from .admission import AdmissionQueue
from .errors import json_response
from .metrics import Metrics
from .paths import ToleranceMiddleware
from .request_handler import RequestHandler
from .request_schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    InfillBody,
    LlamaCppBody,
    ResponseBody,
    TokenizeBody,
)
from .response_schemas import (
    ChatCompletion,
    Completion,
    Embeddings,
    ErrorBody,
    Health,
    LlamaCppCompletion,
    ModelCard,
    ModelList,
    Prompt,
    Properties,
    Slot,
    Text,
    Tokens,
)
from .response_schemas import Response as ResponseObject
from .settings import ServerSettings

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request was refused."},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer."},
}


def _responses(model: Any) -> dict[int | str, dict[str, Any]]:
    """Describe an endpoint that returns ``model``, or streams it as events."""
    event = {"type": "object", "properties": {"data": {"type": "string"}}}
    events = {"text/event-stream": {"schema": event}}
    return {200: {"model": model, "content": events, "description": "The answer, or its events."}, **_ERRORS}


def create_app(engine: Engine | Embedder, settings: ServerSettings, queue: AdmissionQueue) -> FastAPI:
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
        id=model_name,
        created=int(time.time()),
        context_size=engine.context_size,
        schedule=engine.schedule if isinstance(engine, Engine) else None,
    )
    with_key = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])
    if isinstance(engine, Engine):
        _add_generation(with_key, engine, model_name, handler)
    else:
        _add_embeddings(with_key, engine, model_name, handler)

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

    @with_key.get("/slots")
    async def slots() -> list[Slot]:
        """Tell which slots are answering."""
        return [
            Slot(id=number, n_ctx=engine.context_size, is_processing=number < queue.active)
            for number in range(queue.parallel)
        ]

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
    routes = (*app.routes, *with_key.routes)
    paths = (route.path.split("/")[1] for route in routes if isinstance(route, Route))
    app.add_middleware(AccessMiddleware, settings=settings)
    app.add_middleware(ToleranceMiddleware, unversioned={*paths} - {"v1"})
    errors.install(app)
    return app


def _add_generation(with_key: APIRouter, engine: Engine, model_name: str, handler: RequestHandler) -> None:
    """Add the endpoints of a model that writes text."""

    @with_key.post("/v1/completions", responses=_responses(Completion))
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Complete a prompt."""
        start_answer = partial(start, engine, body.request(model_name))
        return await handler.respond(request, body, start_answer, stream=body.stream)

    @with_key.post("/v1/chat/completions", responses=_responses(ChatCompletion))
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        start_answer = partial(start, engine, body.request(model_name))
        return await handler.respond(request, body, start_answer, stream=body.stream)

    @with_key.post("/v1/responses", responses=_responses(ResponseObject))
    async def responses(body: ResponseBody, request: Request) -> Response:
        """Answer a conversation, in the words of OpenAI's newer API. Nothing is kept."""
        start_answer = partial(start, engine, body.request(model_name))
        return await handler.respond(request, body, start_answer, stream=body.stream)

    @with_key.post("/completion", responses=_responses(LlamaCppCompletion | list[LlamaCppCompletion]))
    async def completion(body: LlamaCppBody, request: Request) -> Response:
        """Complete a prompt; the result has the form of llama.cpp's own endpoint."""
        start_answer = partial(start, engine, body.request(model_name))
        return await handler.respond(request, body, start_answer, stream=body.stream)

    @with_key.post("/infill", responses=_responses(LlamaCppCompletion | list[LlamaCppCompletion]))
    async def infill(body: InfillBody, request: Request) -> Response:
        """Write the text between a prefix and a suffix, as llama.cpp's endpoint for editors does."""
        start_answer = partial(start, engine, body.request(model_name))
        return await handler.respond(request, body, start_answer, stream=body.stream)

    @with_key.post("/apply-template", responses={200: {"model": Prompt}})
    def apply_template(body: ChatBody) -> Response:
        """Return the prompt that the model's chat template makes of messages."""
        return json_response({"prompt": prompt_text(engine, body.request(model_name))})

    @with_key.post("/tokenize")
    def tokenize(body: TokenizeBody) -> Tokens:
        """Return the tokens of a text."""
        return tokens.tokenize(engine, body)

    @with_key.post("/detokenize")
    def detokenize(body: DetokenizeBody) -> Text:
        """Return the text of tokens."""
        return tokens.detokenize(engine, body)

    @with_key.get("/props")
    async def props() -> Properties:
        """Tell what llama.cpp's clients ask of a server."""
        return properties.of(engine, model_name)

    _refuse(
        with_key,
        ["/v1/embeddings"],
        f"{model_name} is a model that writes text; serve an embedding model for embeddings",
    )


def _add_embeddings(
    with_key: APIRouter, embedder: Embedder, model_name: str, handler: RequestHandler
) -> None:
    """Add the endpoint of an embedding model."""

    @with_key.post("/v1/embeddings", responses={200: {"model": Embeddings}, **_ERRORS})
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        """Return a vector for each text."""
        start_answer = partial(EmbeddingAnswer, embedder, body.request(model_name))
        return await handler.respond(request, body, start_answer, stream=False)

    _refuse(
        with_key,
        ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/completion", "/infill"],
        f"{model_name} is an embedding model, which writes no text; it answers at /v1/embeddings",
    )


def _refuse(router: APIRouter, paths: Sequence[str], reason: str) -> None:
    """Answer ``paths``, which another kind of model has, with ``reason``."""

    async def refuse() -> Response:
        raise HTTPException(400, reason)

    for path in paths:
        router.add_api_route(path, refuse, methods=["POST"], include_in_schema=False)
