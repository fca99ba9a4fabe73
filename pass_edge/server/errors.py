"""Every error as the JSON object that OpenAI's clients read."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pass_edge.native.errors import ContextFullError, ModelError, PassEdgeError, SettingsError

log = logging.getLogger("pass_edge.server")

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class BusyError(Exception):
    """The queue is full (429), or the server is shutting down (503)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ModelNotFoundError(HTTPException):
    """A request names a model that this server does not have."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        there = ", ".join(map(repr, known))
        super().__init__(404, f"there is no model {name!r}; there is {there}")


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return ``content`` as ASCII JSON: its strings may hold surrogates, which UTF-8 cannot encode."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


def error_object(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's error object."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(status: int, message: str, **details: str | None) -> Response:
    """Return a response with OpenAI's error object; if the client should try again, it says when."""
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return json_response(error_object(status, message, **details), status, headers)


def status_and_code(error: PassEdgeError) -> tuple[int, str | None]:
    """Return an engine error's HTTP status (400 if the request caused it, else 500) and OpenAI's code."""
    if isinstance(error, ContextFullError):
        return 400, "context_length_exceeded"
    return (400 if isinstance(error, SettingsError | ModelError) else 500), None


def _fault(errors: Sequence[Any], body: Any) -> tuple[str, str]:
    """Return what is wrong with the first field of ``body`` that pydantic's ``errors`` name: its name, and a
    message. Where several types are allowed, the type that fits best decides: the one whose error lies
    deepest, and is not about the type itself."""
    field = errors[0]["loc"][:2]
    places = [(_place(error, body), error) for error in errors if error["loc"][:2] == field]
    deepest = max(len(place) for place, _ in places)
    candidates = [(place, error) for place, error in places if len(place) == deepest]
    exact = [each for each in candidates if not each[1]["type"].endswith(("_type", "literal_error"))]
    place, first = (exact or candidates)[0]
    if exact:
        return ".".join(map(str, place)), first["msg"].removeprefix("Value error, ")
    wanted = dict.fromkeys(error["msg"].removeprefix("Input should be ") for _, error in candidates)
    return ".".join(map(str, place)), f"Input should be {', or '.join(wanted)}"


def _place(error: Any, body: Any) -> list[Any]:
    """Where in ``body`` an error lies, without the names of types in pydantic's location."""
    if "field" in error.get("ctx", {}):
        return [error["ctx"]["field"]]
    place: list[Any] = []
    for part in error["loc"][1:]:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            continue
        place.append(part)
    last = error["loc"][-1]
    return [*place, last] if error["type"] == "missing" and last not in ("body", *place[-1:]) else place


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with OpenAI's error object."""

    async def invalid_body(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", first["msg"])
            return error_response(400, f"the body is not JSON: {reason} (character {first['loc'][-1]})")
        if first["loc"][0] == "body" and not isinstance(error.body, dict):
            return error_response(400, "the body must be a JSON object")
        name, message = _fault(error.errors(), error.body)
        return error_response(400, f"{name or 'the body'}: {message}", param=name or None)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message, path = str(error.detail), request.url.path
        if message == "Not Found":
            message = f"there is no {path} here; /docs lists the endpoints"
        if message == "There was an error parsing the body":  # FastAPI's, of whatever json.loads raises
            message = "the body cannot be read as JSON: it must be UTF-8, uncompressed, and not nested deeply"
        if message == "Method Not Allowed":
            message = f"{path} is not for {request.method}; /docs lists the endpoints"
        code = "model_not_found" if isinstance(error, ModelNotFoundError) else None
        response = error_response(error.status_code, message, param=code and "model", code=code)
        response.headers.update(error.headers or {})
        return response

    async def engine_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, PassEdgeError)
        status, code = status_and_code(error)
        return error_response(status, str(error), code=code)

    async def busy(_: Request, error: Exception) -> Response:
        assert isinstance(error, BusyError)
        return error_response(error.status, str(error))

    async def unexpected_error(_: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return error_response(500, "internal error; the server's log has the details")

    app.add_exception_handler(RequestValidationError, invalid_body)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(PassEdgeError, engine_error)
    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(Exception, unexpected_error)
