"""Requests as clients really send them: other paths, HEAD, and JSON that is not declared as such."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

_VERSION = "v1"


class ToleranceMiddleware:
    """ASGI middleware that brings requests into the form that the endpoints know.

    - Endpoints are found with and without /v1, and whatever the slashes: clients join a base URL and a path
      in many ways.
    - HEAD is answered as GET is; the HTTP server leaves the body out.
    - A body is read as JSON whatever its content type: curl calls it a form. Only with an Origin does the
      type stay, because a web page of another origin can send a form, but no JSON.
    """

    def __init__(self, app: ASGIApp, unversioned: Collection[str]) -> None:
        """``unversioned``: the first part of each path that does not begin with /v1."""
        self._app = app
        self._unversioned = unversioned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = self._path(scope["path"])
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "path": path, "raw_path": path.encode(), "method": method}
            headers = MutableHeaders(raw=list(scope["headers"]))
            if method == "POST" and "origin" not in headers:
                headers["content-type"] = "application/json"
            scope["headers"] = headers.raw
        await self._app(scope, receive, send)

    def _path(self, path: str) -> str:
        parts = [part for part in path.split("/") if part]
        while parts and parts[0] == _VERSION:
            parts = parts[1:]
        is_root = not path.strip("/")
        if not is_root and (not parts or parts[0] not in self._unversioned):
            parts = [_VERSION, *parts]
        return "/" + "/".join(parts)
