"""The endpoints of the server."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from pass_edge import Engine
from pass_edge.native.file_kind import Kind
from pass_edge.openai.complete import prompt_text, start
from pass_edge.openai.embeddings import EmbeddingAnswer

from . import errors, page, properties, tokens
from .access import AccessMiddleware
from .admission import SHUTTING_DOWN
from .errors import json_response
from .metrics import Metrics
from .model_pool import ModelPool, ServedModel
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
    ModelStatus,
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


def create_app(pool: ModelPool, settings: ServerSettings) -> FastAPI:
    """Return the ASGI application that serves the models of ``pool``; the caller closes the pool."""
    app = FastAPI(
        title="PaSS Edge",
        description="OpenAI's protocol over llama.cpp with Parallel Speculative Sampling.",
        version="1",
        responses=_ERRORS,
    )
    metrics = Metrics(pool)
    handler = RequestHandler(pool, metrics, settings.time_limit)
    with_key = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])
    _add_answers(with_key, handler, in_document=pool.has(Kind.TEXT))
    _add_tools(with_key, handler, in_document=pool.has(Kind.TEXT))
    _add_embeddings(with_key, handler, in_document=pool.has(Kind.EMBEDDING))

    @with_key.get("/v1/models")
    async def models() -> ModelList:
        """List the models."""
        return ModelList(data=[_card(model) for model in pool.models])

    @with_key.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        """Describe the model of this name."""
        return _card(pool.named(model))

    @with_key.get("/slots")
    async def slots(model: str | None = None) -> list[Slot]:
        """Tell which slots of a model are answering; a model that is not loaded has none."""
        found = pool.find(model)
        if found.loaded is None:
            return []
        return [
            Slot(
                id=number,
                n_ctx=found.loaded.engine.context_size,
                is_processing=number < found.queue.active,
            )
            for number in range(found.queue.parallel)
        ]

    @with_key.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    if settings.page:
        app.add_api_route("/", page.page, response_class=Response, include_in_schema=False)

    @app.get("/health")
    async def health() -> Health:
        """Tell whether the server takes requests, and how many it could answer at once."""
        if pool.is_closed:
            raise HTTPException(503, SHUTTING_DOWN)
        slots = sum(model.queue.parallel for model in pool.models)
        return Health(slots=slots, slots_idle=slots - sum(model.queue.active for model in pool.models))

    app.include_router(with_key)
    routes = (*app.routes, *with_key.routes)
    paths = (route.path.split("/")[1] for route in routes if isinstance(route, Route))
    app.add_middleware(AccessMiddleware, settings=settings)
    app.add_middleware(ToleranceMiddleware, unversioned={*paths} - {"v1"})
    errors.install(app)
    return app


def _card(model: ServedModel) -> ModelCard:
    engine = model.loaded.engine if model.loaded else None
    return ModelCard(
        id=model.name,
        created=model.created,
        context_size=engine.context_size if engine else None,
        schedule=engine.schedule if isinstance(engine, Engine) else None,
        status=ModelStatus(value=model.status, failed=bool(model.failure), error=model.failure or None),
    )


def _add_answers(with_key: APIRouter, handler: RequestHandler, *, in_document: bool) -> None:
    """Add the endpoints of models that write text."""
    respond = partial(handler.respond, kind=Kind.TEXT, start_answer=start)

    @with_key.post("/v1/completions", responses=_responses(Completion), include_in_schema=in_document)
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Complete a prompt."""
        return await respond(request, body, stream=body.stream)

    @with_key.post(
        "/v1/chat/completions", responses=_responses(ChatCompletion), include_in_schema=in_document
    )
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        return await respond(request, body, stream=body.stream)

    @with_key.post("/v1/responses", responses=_responses(ResponseObject), include_in_schema=in_document)
    async def responses(body: ResponseBody, request: Request) -> Response:
        """Answer a conversation, in the words of OpenAI's newer API. Nothing is kept."""
        return await respond(request, body, stream=body.stream)

    @with_key.post(
        "/completion",
        responses=_responses(LlamaCppCompletion | list[LlamaCppCompletion]),
        include_in_schema=in_document,
    )
    async def completion(body: LlamaCppBody, request: Request) -> Response:
        """Complete a prompt; the result has the form of llama.cpp's own endpoint."""
        return await respond(request, body, stream=body.stream)

    @with_key.post(
        "/infill",
        responses=_responses(LlamaCppCompletion | list[LlamaCppCompletion]),
        include_in_schema=in_document,
    )
    async def infill(body: InfillBody, request: Request) -> Response:
        """Write the text between a prefix and a suffix, as llama.cpp's endpoint for editors does."""
        return await respond(request, body, stream=body.stream)


def _add_tools(with_key: APIRouter, handler: RequestHandler, *, in_document: bool) -> None:
    """Add the endpoints that tell of prompts, tokens and properties of models that write text."""

    @with_key.post("/apply-template", responses={200: {"model": Prompt}}, include_in_schema=in_document)
    async def apply_template(body: ChatBody) -> Response:
        """Return the prompt that the model's chat template makes of messages."""
        return await handler.ask(
            body.model,
            lambda engine, model: json_response({"prompt": prompt_text(engine, body.request(model.name))}),
        )

    @with_key.post("/tokenize", include_in_schema=in_document)
    async def tokenize(body: TokenizeBody) -> Tokens:
        """Return the tokens of a text."""
        return await handler.ask(body.model, lambda engine, _: tokens.tokenize(engine, body))

    @with_key.post("/detokenize", include_in_schema=in_document)
    async def detokenize(body: DetokenizeBody) -> Text:
        """Return the text of tokens."""
        return await handler.ask(body.model, lambda engine, _: tokens.detokenize(engine, body))

    @with_key.get("/props", include_in_schema=in_document)
    async def props(model: str | None = None) -> Properties:
        """Tell what llama.cpp's clients ask of a server."""
        return await handler.ask(model, lambda engine, model: properties.of(engine, model.name))


def _add_embeddings(with_key: APIRouter, handler: RequestHandler, *, in_document: bool) -> None:
    """Add the endpoint of embedding models."""

    @with_key.post(
        "/v1/embeddings",
        responses={200: {"model": Embeddings}, **_ERRORS},
        include_in_schema=in_document,
    )
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        """Return a vector for each text."""
        return await handler.respond(request, body, Kind.EMBEDDING, EmbeddingAnswer)
