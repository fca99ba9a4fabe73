"""HTTP requests to a test server, and a way to slow its answers down."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any

import pytest

from pass_edge.decoding.session import Session
from tests.support.serving import Running

A = 3 + ord("a")  # its token
LONG = {"prompt": "the yes", "max_tokens": 4000, "logit_bias": {"2": -100}}  # never ends by itself


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.05) -> list[float]:
    """Make every pass take that long; returns when each one ended."""
    step, ended = Session.step, []

    def slowly(self: Session, sampler: Any) -> Any:
        time.sleep(seconds)
        ended.append(time.monotonic())
        return step(self, sampler)

    monkeypatch.setattr(Session, "step", slowly)
    return ended


def post(server: Running, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any], Any]:
    """Status, body and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, raw, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    return response.status, content, response.headers


def get(server: Running, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def raw_request(server: Running, body: dict[str, Any]) -> socket.socket:
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection
