"""Clients that disconnect leave nothing behind."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pass_edge import Engine
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import CompletionRequest
from tests.support.http_requests import LONG, A, post, raw_request, slow
from tests.support.serving import Running


def test_clients_cut_in_mid_stream_leave_nothing_behind(server: Running, engine: Engine) -> None:
    for i in range(40):
        connection = raw_request(server, {**LONG, "stream": True, "seed": i})
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.close()
    server.wait_until_idle()
    status, body, _ = post(server, "/v1/completions", {"prompt": "the", "max_tokens": 9, "seed": 1})
    assert status == 200
    assert body["choices"] == complete(engine, CompletionRequest("the", max_tokens=9, seed=1))["choices"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "more", [{}, {"logit_bias": {A: 100}, "stop": "a" * 3000}], ids=["telling", "holding all text back"]
)
def test_a_client_that_goes_stops_its_answer_within_a_pass(
    server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool, more: dict[str, Any]
) -> None:
    passes = slow(monkeypatch)
    connection = raw_request(server, {**LONG, **more, "stream": stream})
    while len(passes) < 3:
        time.sleep(0.005)
    gone = time.monotonic()
    connection.close()
    server.wait_until_idle()
    time.sleep(0.3)
    assert len([ended for ended in passes if ended > gone]) <= 2  # the one under way, and a race


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_while_it_waits_frees_its_place(
    server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    passes = slow(monkeypatch)
    first = raw_request(server, LONG)
    waiting = raw_request(server, {**LONG, "stream": stream})
    while server.queue.size < 2 or not passes:
        time.sleep(0.005)
    waiting.close()
    end = time.monotonic() + 2
    while server.queue.size == 2:
        assert time.monotonic() < end
        time.sleep(0.005)
    first.close()
    server.wait_until_idle()
