"""Limits of queue, time and body size; malformed requests get errors in OpenAI's shape."""

from __future__ import annotations

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pass_edge import Engine, Settings
from pass_edge.server import access, request_handler
from pass_edge.server.settings import ServerSettings
from tests.support.chat_requests import MESSAGES
from tests.support.http_requests import LONG, get, post, raw_request, slow
from tests.support.serving import Running, serving


def test_a_full_queue_is_told_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)
    with serving(engine, queue=1) as server:
        taken = [raw_request(server, {**LONG, "stream": stream}) for stream in (True, False)]
        while server.queue.size < 2:
            time.sleep(0.005)
        status, body, headers = post(server, "/v1/completions", {"prompt": "x"})
        assert status == 429
        assert body["error"]["type"] == "rate_limit_error"
        assert int(headers["Retry-After"]) >= 1
        assert b"pass_edge_refused_total 1.0" in get(server, "/metrics")[1]
        for connection in taken:
            connection.close()
        server.wait_until_idle()
        assert post(server, "/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200


def test_the_server_goes_on_talking_while_it_answers(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    connection = raw_request(server, LONG)
    for _ in range(20):
        assert get(server, "/health")[0] == 200
    assert server.queue.size == 1  # it has not ended meanwhile
    connection.close()
    server.wait_until_idle()


def test_clients_at_once_get_what_they_would_get_alone(speaking_path: Path) -> None:
    bodies = [
        {"prompt": prompt, "max_tokens": 60, "seed": i, "temperature": i / 3, "logit_bias": {"2": -100}}
        for i, prompt in enumerate(("one", "two the", "the yes " * 12, "no"))
    ]
    with (
        Engine(speaking_path, settings=Settings(threads=1, parallel=4)) as engine,
        serving(engine) as server,
    ):

        def text(body: dict[str, Any]) -> str:
            return post(server, "/v1/completions", body)[1]["choices"][0]["text"]

        alone = [text(body) for body in bodies]
        with ThreadPoolExecutor(4) as clients:
            assert list(clients.map(text, bodies)) == alone
        assert json.loads(get(server, "/health")[1]) == {"status": "ok", "slots": 4, "slots_idle": 4}
        assert b"pass_edge_slots 4.0" in get(server, "/metrics")[1]


def test_an_answer_ends_at_the_time_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)
    with serving(engine, time_limit=0.3) as server:
        status, body, _ = post(server, "/v1/completions", LONG)
        assert status == 200
        assert body["choices"][0]["finish_reason"] == "length"
        assert 0 < body["usage"]["completion_tokens"] < 20


def test_no_request_is_taken_while_it_shuts_down(engine: Engine) -> None:
    with serving(engine) as server:
        server.queue.close()
        assert post(server, "/v1/completions", {"prompt": "x"})[0] == 503
        assert get(server, "/health")[0] == 503


def test_what_is_not_json_is_called_so(server: Running) -> None:
    for body, message in (
        (b'{"prompt": "x",}', "the body is not JSON: "),
        (b'{"prompt": []}', "prompt"),
        (b"[]", "the body must be a JSON object"),
        (b"", "the body must be a JSON object"),
    ):
        _, content, _ = post(server, "/v1/completions", body)
        assert content["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": NaN}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "seed": 99999999999999999999}',
        b'{"prompt": []}',
        b'{"prompt": [-1]}',
        b'{"prompt": [9999999]}',
        b'{"prompt": "x", "grammar": "root ::= [\\ud800]"}',
        b'{"prompt": "x", "stop": [1]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 100_000,
    ],
)
def test_malformed_bodies_are_refused(server: Running, body: bytes) -> None:
    status, content, _ = post(server, "/v1/completions", body)
    assert status == 400
    assert content["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "tools", [[{"type": "function", "function": {"name": "\ud800"}}], [{}], [{"function": 1}]]
)
def test_strange_tools_make_no_server_error(server: Running, tools: list[Any]) -> None:
    body = {"messages": MESSAGES, "tools": tools, "tool_choice": "required", "max_tokens": 200}
    assert post(server, "/v1/chat/completions", body)[0] in (200, 400)


def test_letters_that_have_no_utf8_come_back_as_they_came(server: Running) -> None:
    body = b'{"prompt": "a\\ud800", "echo": true, "max_tokens": 2}'
    status, content, _ = post(server, "/v1/completions", body)
    assert status == 200
    assert content["choices"][0]["text"].startswith("a\ud800")


def test_bodies_over_the_limit_are_not_read(server: Running) -> None:
    limit = ServerSettings().body_limit
    status, content, _ = post(server, "/v1/completions", b"x", **{"Content-Length": str(limit + 1)})
    assert status == 413
    assert str(limit) in content["error"]["message"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    chunk = b" " * (1 << 20)
    try:
        connection.request(
            "POST",
            "/v1/completions",
            (chunk for _ in range(8)),
            {"Content-Type": "application/json"},
            encode_chunked=True,
        )
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up on us, which is right as well
    else:
        assert connection.getresponse().status == 413
    connection.close()


def test_a_body_that_does_not_come_is_not_waited_for(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\nhalf of it".encode())
        assert b" 408 " in connection.recv(4096)


def test_a_client_that_reads_nothing_is_taken_for_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_handler, "_SEND_SECONDS", 0.3)
    content = json.dumps({**LONG, "stream": True, "n": 16, "logprobs": 20}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(engine, send_buffer=4096) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        connection.recv(100)
        server.wait_until_idle(20)


def test_unknown_places_and_methods_are_told_in_openais_shape(server: Running) -> None:
    for path in ("/nothing", "/v1/completions"):
        status, body = get(server, path)
        assert status in (404, 405)
        assert json.loads(body)["error"]["message"]


def test_an_error_in_mid_stream_is_an_event(client: openai.OpenAI) -> None:
    grammar = '%llguidance {}\nstart: "ab" <[0]>'  # the unknown token, which is never sampled
    stream = client.completions.create(model="any", prompt="x", stream=True, extra_body={"grammar": grammar})
    with pytest.raises(openai.APIError, match="allows no token"):
        list(stream)
