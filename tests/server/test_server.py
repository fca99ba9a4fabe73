"""The server as OpenAI's own client and curl use it, and what it does when all goes wrong."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pass_edge import Engine, Settings, SettingsError
from pass_edge.decoding.session import Session
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest
from pass_edge.server import access, request_handler
from pass_edge.server.settings import ServerSettings
from tests.openai.test_openai import GO, MESSAGES
from tests.support.serving import Running, serving

A = 3 + ord("a")  # its token
LONG = {"prompt": "the yes", "max_tokens": 4000, "logit_bias": {"2": -100}}  # never ends by itself


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with serving(engine, name="tiny", queue=64) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


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


# -- OpenAI's client ------------------------------------------------------------------------------------


def test_completions_are_the_engines(client: openai.OpenAI, engine: Engine) -> None:
    asked = {"max_tokens": 30, "seed": 4, "temperature": 1.0, "stop": ["e"], "n": 2}
    got = client.completions.create(model="any", prompt="the yes", logprobs=2, **asked)
    own = complete(engine, CompletionRequest("the yes", logprobs=2, **asked))
    assert [choice.text for choice in got.choices] == [choice["text"] for choice in own["choices"]]
    assert got.choices[1].logprobs.token_logprobs == own["choices"][1]["logprobs"]["token_logprobs"]
    assert got.usage.completion_tokens == own["usage"]["completion_tokens"]
    assert got.usage.draft["passes"] > 0
    assert got.model == "tiny"


def test_chats_are_the_engines(client: openai.OpenAI, engine: Engine) -> None:
    asked = {"max_tokens": 30, "seed": 4, "temperature": 1.0, "logprobs": True, "top_logprobs": 3}
    got = client.chat.completions.create(model="any", messages=MESSAGES, **asked)
    own = complete(engine, ChatCompletionRequest(MESSAGES, **asked))
    assert got.choices[0].message.content == own["choices"][0]["message"]["content"]
    first = got.choices[0].logprobs.content[0]
    assert first.model_dump() == own["choices"][0]["logprobs"]["content"][0]
    assert len(first.top_logprobs) == 3


def test_streams_join_to_the_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "any", "messages": MESSAGES, "max_tokens": 40, "seed": 9, "n": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    for index in range(2):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in mine) == whole.choices[index].message.content
        assert mine[0].delta.role == "assistant"
        assert mine[-1].finish_reason == whole.choices[index].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    pieces = client.completions.create(model="any", prompt="the", max_tokens=20, seed=9, stream=True)
    text = client.completions.create(model="any", prompt="the", max_tokens=20, seed=9).choices[0].text
    assert "".join(piece.choices[0].text for piece in pieces) == text


def test_a_schema_and_a_grammar_are_kept_to(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "word": {"enum": ["yes", "no"]}},
        "required": ["ok", "word"],
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for seed in range(5):
        got = client.chat.completions.create(
            model="any", messages=MESSAGES, seed=seed, temperature=1.5, response_format=response_format
        )
        content = json.loads(got.choices[0].message.content)
        assert isinstance(content["ok"], bool)
        assert content["word"] in ("yes", "no")
        text = client.completions.create(
            model="any", prompt="x", seed=seed, extra_body={"grammar": 'root ::= "<" [a-z]{3} ">"'}
        )
        assert len(text.choices[0].text) == 5
        assert text.choices[0].text[1:4].islower()


def test_a_forced_tool_is_called(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "any",
        "messages": MESSAGES,
        "tools": [GO],
        "tool_choice": "required",
        "seed": 2,
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert isinstance(json.loads(call.function.arguments)["fast"], bool)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    (streamed,) = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    assert streamed.function.arguments == call.function.arguments
    told = [*MESSAGES, choice.message.model_dump(exclude_none=True)]
    told.append({"role": "tool", "tool_call_id": call.id, "content": "gone"})
    again = client.chat.completions.create(model="any", messages=told, tools=[GO], max_tokens=3)
    assert again.choices[0].message.content is not None


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve("tiny").id == model.id == "tiny"
    assert model.context_size == 4096
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_a_conversation_is_not_read_again(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=20, logit_bias={"270": 50}
    )
    answer = {"role": "assistant", "content": first.choices[0].message.content}
    follow_up = [*MESSAGES, answer, {"role": "user", "content": "go on"}]
    second = client.chat.completions.create(model="any", messages=follow_up, max_tokens=2)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"messages": [{"role": "user", "content": "the " * 5000}]}, "context_length_exceeded"),
        ({"messages": MESSAGES, "temperature": -1}, None),
        ({"messages": MESSAGES, "response_format": {"type": "xml"}}, None),
        ({"messages": []}, None),
        ({"messages": MESSAGES, "extra_body": {"dance": True}}, None),
        ({"messages": MESSAGES, "extra_body": {"grammar": "root"}}, None),
        ({"messages": MESSAGES, "logit_bias": {"99999": 1}}, None),
        ({"messages": MESSAGES, "tools": [GO], "stream": True, "tool_choice": "sometimes"}, None),
    ],
)
def test_wrong_requests_are_the_clients_errors(
    client: openai.OpenAI, asked: dict[str, Any], code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="any", **asked)
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.body["message"]


def test_many_clients_at_once_are_all_answered_right(server: Running, engine: Engine) -> None:
    async def main() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any")

        async def ask(seed: int) -> str:
            asked = {"model": "any", "prompt": f"{seed} the", "max_tokens": 20, "seed": seed}
            if seed % 2:
                return (await client.completions.create(**asked)).choices[0].text
            chunks = await client.completions.create(**asked, stream=True)
            return "".join([chunk.choices[0].text async for chunk in chunks])

        return await asyncio.gather(*map(ask, range(24)))

    texts = asyncio.run(main())
    own = [complete(engine, CompletionRequest(f"{seed} the", max_tokens=20, seed=seed)) for seed in range(24)]
    assert texts == [each["choices"][0]["text"] for each in own]


CHAT = {"messages": MESSAGES, "max_tokens": 5, "seed": 1}
PROMPT = {"prompt": "the yes", "max_tokens": 5, "seed": 1}
ENDPOINTS = [
    ("/v1/chat/completions", CHAT, '"object": "chat.completion"'),
    ("/v1/chat/completions", {**CHAT, "stream": True}, "data: [DONE]"),
    ("/v1/completions", PROMPT, '"object": "text_completion"'),
    ("/v1/completions", {**PROMPT, "stream": True}, "data: [DONE]"),
    ("/v1/models", None, '"tiny"'),
    ("/v1/models/{model}", None, '"tiny"'),
    ("/health", None, '"ok"'),
    ("/metrics", None, "pass_edge_requests"),
]


def test_the_endpoints_are_all_there_are(server: Running) -> None:
    """So that whoever adds one has curl and OpenAI's client ask it."""
    assert set(json.loads(get(server, "/openapi.json")[1])["paths"]) == {path for path, _, _ in ENDPOINTS}


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize(("path", "body", "expected"), ENDPOINTS)
def test_curl_is_answered(server: Running, path: str, body: dict[str, Any] | None, expected: str) -> None:
    command = ["curl", "-sSN", "--fail", server.url + path.format(model="tiny")]
    if body:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    said = subprocess.run(command, capture_output=True, timeout=20, check=True, text=True).stdout
    assert expected in said
    if body and body.get("stream"):
        *events, end = said.strip().split("\n\n")
        assert end == "data: [DONE]"
        kind = "chat.completion.chunk" if "messages" in body else "text_completion"
        assert {json.loads(event.removeprefix("data: "))["object"] for event in events} == {kind}


@pytest.mark.parametrize(("path", "body", "expected"), ENDPOINTS)
def test_openais_client_is_answered(
    client: openai.OpenAI, server: Running, path: str, body: dict[str, Any] | None, expected: str
) -> None:
    url = server.url + path.format(model="tiny")
    text = client.post(url, body=body, cast_to=str) if body else client.get(url, cast_to=str)
    assert expected in text


def test_prometheus_is_told(server: Running, client: openai.OpenAI) -> None:
    def count(name: str) -> float:
        text = get(server, "/metrics")[1].decode()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    before = {name: count(f"pass_edge_{name}_total") for name in ("answers", "completion_tokens", "passes")}
    usage = client.completions.create(model="any", prompt="the", max_tokens=10).usage
    assert count("pass_edge_answers_total") == before["answers"] + 1
    assert count("pass_edge_completion_tokens_total") == before["completion_tokens"] + usage.completion_tokens
    assert count("pass_edge_passes_total") == before["passes"] + usage.draft["passes"]
    assert count("pass_edge_requests") == 0


# -- clients that go away -------------------------------------------------------------------------------


def raw_request(server: Running, body: dict[str, Any]) -> socket.socket:
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


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


# -- limits ---------------------------------------------------------------------------------------------


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
    stream = client.completions.create(
        model="any", prompt="x", stream=True, extra_body={"grammar": 'root ::= "ab" "\\x00"'}
    )
    with pytest.raises(openai.APIError, match="allows no token"):
        list(stream)


# -- who may ask ----------------------------------------------------------------------------------------


def test_only_who_knows_the_key_is_answered(engine: Engine) -> None:
    with serving(engine, api_key="sécret") as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer"},
            {"Authorization": "x"},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/docs"):
                status, body = get(server, path, **headers)
                assert status == 401
                assert json.loads(body)["error"]["type"] == "authentication_error"
        assert get(server, "/health")[0] == 200
        right = {"Authorization": "bearer sécret".encode().decode("latin-1")}
        assert get(server, "/v1/models", **right)[0] == 200
        assert get(server, "/v1/models", Host="elsewhere.example", **right)[0] == 200
    with serving(engine, api_key="secret") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.completions.create(model="any", prompt="x")
        right_one = openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0)
        assert right_one.completions.create(model="any", prompt="x", max_tokens=1).choices


def test_a_foreign_host_name_is_refused_without_a_key(server: Running) -> None:
    for name in ("localhost", f"127.0.0.1:{server.port}", f"LOCALHOST:{server.port}", "[::1]:80"):
        assert get(server, "/v1/models", Host=name)[0] == 200
    for name in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", ""):
        assert get(server, "/v1/models", Host=name)[0] == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(SettingsError, match="api-key"):
        ServerSettings(host=host)
    assert not ServerSettings(host=host, api_key="k").is_loopback


@pytest.mark.parametrize(
    "wrong", [{"port": -1}, {"port": 70000}, {"queue": -1}, {"time_limit": 0}, {"api_key": " "}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ServerSettings(**wrong)


@pytest.mark.slow
def test_no_request_leaks_memory_or_places(server: Running, resident: Callable[[], int]) -> None:
    def requests(count: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(count):
            body = json.dumps({"prompt": f"{i}", "max_tokens": 2, "stream": bool(i % 2)})
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        connection.close()
        return resident()

    before = requests(200)
    assert requests(1000) - before < 4 << 20
    server.wait_until_idle()
