"""What every request must pass before its body is read: who asks, for which host, and how much."""

from __future__ import annotations

import asyncio
import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response
from .settings import ServerSettings

_OPEN = ("/health",)
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
_BODY_SECONDS = 30.0


class AccessMiddleware:
    """ASGI middleware. Without a key, only requests that name this very machine as their host pass: a page
    in a browser can be made to reach it under another name (DNS rebinding)."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._key = settings.api_key.encode() if settings.api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] not in _OPEN and not self._knows_key(headers):
            status, message = 401, "the API key is missing or wrong; send it as: Authorization: Bearer KEY"
        elif self._key is None and not self._names_this_machine(headers):
            status, message = 403, "this server answers to localhost alone; start it with --api-key for more"
        elif int(headers.get("content-length") or 0) > self._settings.body_limit:
            status, message = 413, self._too_large()
        else:
            await self._app(scope, self._limited(receive), send)
            return
        await error_response(status, message)(scope, receive, send)

    def _knows_key(self, headers: Headers) -> bool:
        if self._key is None:
            return True
        kind, _, key = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode("latin-1"), self._key)

    def _names_this_machine(self, headers: Headers) -> bool:
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name in (*_OWN_NAMES, self._settings.host)

    def _limited(self, receive: Receive) -> Receive:
        """``receive``, as long as the body comes in time and within the limit."""
        read, whole = 0, False

        async def limited() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), _BODY_SECONDS)
            except asyncio.TimeoutError:
                raise HTTPException(408, "the body did not come in time") from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self._settings.body_limit:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"the body is larger than the {self._settings.body_limit} bytes that this server reads"
