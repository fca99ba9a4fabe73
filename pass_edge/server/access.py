"""Checks before a request is handled: its API key, its host name, and the size and speed of its body."""

from __future__ import annotations

import asyncio
import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response
from .settings import ServerSettings

_PATHS_WITHOUT_KEY = ("/health", "/")  # the page itself asks for the key
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_BODY_SECONDS = 30.0


class AccessMiddleware:
    """ASGI middleware that refuses requests with a wrong key, a foreign host name, or too large a body.

    Without a key, only requests whose host name is this machine's pass: a web page could otherwise reach the
    server under another name (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._key = settings.api_key.encode() if settings.api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] not in _PATHS_WITHOUT_KEY and not self._has_key(headers):
            status, message = (
                401,
                "the API key is missing or wrong; send it as: Authorization: Bearer KEY, or X-Api-Key: KEY",
            )
        elif self._key is None and not self._is_local(headers):
            status, message = (
                403,
                "this server answers requests to localhost only; start it with --api-key to allow others",
            )
        elif int(headers.get("content-length") or 0) > self._settings.body_limit:
            status, message = 413, self._too_large()
        else:
            await self._app(scope, self._limited(receive), send)
            return
        await error_response(status, message)(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        if self._key is None:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("x-api-key", "")
        return hmac.compare_digest(key.strip().encode("latin-1"), self._key)

    def _is_local(self, headers: Headers) -> bool:
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name in (*_LOCAL_NAMES, self._settings.host)

    def _limited(self, receive: Receive) -> Receive:
        """Return ``receive`` with limits on the body: bytes in all, and seconds between its parts."""
        read, complete = 0, False

        async def limited() -> Message:
            nonlocal read, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), _BODY_SECONDS)
            except asyncio.TimeoutError:
                raise HTTPException(408, "the body took too long to arrive") from None
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > self._settings.body_limit:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"the body is larger than this server's limit of {self._settings.body_limit} bytes"
