"""Every error in the shape that OpenAI's clients read."""

from __future__ import annotations

import json
import logging
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
    """No place is free (429), or none will be any more (503)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """ASCII, because a model's escapes can name letters that have no UTF-8."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


def error_object(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(status: int, message: str, **more: str | None) -> Response:
    """An error object as a response; one that is worth another try later says so."""
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return as_json(error_object(status, message, **more), status, headers)


def told(error: PassEdgeError) -> tuple[int, str | None]:
    """The status and the code of an engine's error: the client's fault, or the server's."""
    if isinstance(error, ContextFullError):
        return 400, "context_length_exceeded"
    return (400 if isinstance(error, SettingsError | ModelError) else 500), None


def install(app: FastAPI) -> None:
    """Let ``app`` answer all errors so."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", first["msg"])
            return error_response(400, f"the body is not JSON: {reason} (character {first['loc'][-1]})")
        place = ".".join(str(part) for part in first["loc"][1:])
        return error_response(
            400, f"{place or 'the body (application/json)'}: {first['msg']}", param=place or None
        )

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(error.status_code, str(error.detail))

    async def engine(_: Request, error: Exception) -> Response:
        assert isinstance(error, PassEdgeError)
        status, code = told(error)
        return error_response(status, str(error), code=code)

    async def busy(_: Request, error: Exception) -> Response:
        assert isinstance(error, BusyError)
        return error_response(error.status, str(error))

    async def unforeseen(_: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return error_response(500, "the server made a mistake; its log has more")

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(PassEdgeError, engine)
    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(Exception, unforeseen)
