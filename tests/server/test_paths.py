"""Requests come by many paths, with HEAD, and with content types that are not JSON's; /tokenize."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from typing import Any

import pytest

from pass_edge import Engine
from tests.support.chat_requests import MESSAGES
from tests.support.http_requests import get, post
from tests.support.serving import Running, serving

CHAT = {"messages": MESSAGES, "max_tokens": 2}
PROMPT = {"prompt": "the", "max_tokens": 2}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("//v1//chat//completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/completions", PROMPT),
        ("/completions/", PROMPT),
        ("/v1/tokenize", {"content": "x"}),
        ("/detokenize/", {"tokens": [5]}),
    ],
)
def test_an_endpoint_is_found_by_the_paths_that_clients_make(server: Running, path: str, body: Any) -> None:
    assert post(server, path, body)[0] == 200


@pytest.mark.parametrize(
    "path", ["/models", "/v1/models/", "/models/tiny", "/v1/health", "/health/", "/v1/metrics", "/docs/"]
)
def test_what_is_got_is_found_by_them_too(server: Running, path: str) -> None:
    assert get(server, path)[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("HEAD", path)
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.close()


def test_other_paths_are_not_found(server: Running) -> None:
    for path in ("/v1", "/v2/models", "/v1/v1", "/modelsx", "/chat"):
        status, body = get(server, path)
        assert status == 404
        assert "/docs" in json.loads(body)["error"]["message"]
    for method, path in (("HEAD", "/v1/completions"), ("PUT", "/health"), ("GET", "/chat/completions")):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request(method, path)
        response = connection.getresponse()
        assert response.status == 405
        assert response.headers["Allow"]
        connection.close()


def test_a_path_does_not_lead_around_the_key(engine: Engine) -> None:
    with serving(engine, api_key="secret") as server:
        for path in (
            "/models",
            "/v1/v1/models",
            "//models",
            "/health/../models",
            "/v1/health/x",
            "/metrics/",
        ):
            assert get(server, path)[0] == 401
        for path in ("/health", "/v1/health", "/health/"):
            assert get(server, path)[0] == 200
        assert get(server, "/models", **{"X-Api-Key": "secret"})[0] == 200
        assert get(server, "/models", **{"X-Api-Key": "wrong"})[0] == 401


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream"]
)
def test_a_body_is_json_whatever_it_is_called(server: Running, kind: str) -> None:
    assert post(server, "/v1/completions", PROMPT, **{"Content-Type": kind})[0] == 200


def test_a_web_page_of_another_origin_cannot_send_a_form(server: Running) -> None:
    page = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert post(server, "/v1/completions", PROMPT, **page)[0] == 400


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_needs_no_content_type(server: Running) -> None:
    command = ["curl", "-sS", "--fail", f"{server.url}/v1/chat/completions", "-d", json.dumps(CHAT)]
    said = subprocess.run(command, capture_output=True, timeout=20, check=True, text=True).stdout
    assert json.loads(said)["object"] == "chat.completion"


@pytest.mark.parametrize("content", ["the yes é", "", "媽 🤗", " a\n", "<s>", "\ud800"])
@pytest.mark.parametrize("flags", [{}, {"add_special": True}, {"parse_special": False}])
def test_tokens_are_the_tokenizers(
    server: Running, engine: Engine, content: str, flags: dict[str, Any]
) -> None:
    status, said, _ = post(server, "/tokenize", {"content": content, **flags})
    assert status == 200
    tokenize = engine.model.vocabulary.tokenize
    ids = tokenize(content, **{"add_special": False, "parse_special": True} | flags).tolist()
    assert said["tokens"] == ids
    assert said["count"] == len(ids)
    _, pieces, _ = post(server, "/tokenize", {"content": content, "with_pieces": True, **flags})
    assert [each["id"] for each in pieces["tokens"]] == ids
    raw = [
        piece.encode() if isinstance(piece := each["piece"], str) else bytes(piece)
        for each in pieces["tokens"]
    ]
    assert raw == [engine.model.vocabulary.piece(token, special=True) for token in ids]


def test_tokens_become_the_text_again(server: Running) -> None:
    for content in ("the yes é", "媽 🤗", "</s>"):
        _, said, _ = post(server, "/tokenize", {"content": content})
        _, back, _ = post(server, "/detokenize", {"tokens": said["tokens"]})
        assert back["content"].lstrip() == back["prompt"].lstrip() == content


def test_vllms_names_mean_the_same(server: Running, engine: Engine) -> None:
    _, said, _ = post(server, "/tokenize", {"model": "any", "prompt": "the", "return_token_strs": True})
    assert said["tokens"] == engine.tokenize("the")
    assert said["max_model_len"] == engine.context_size
    assert len(said["token_strs"]) == said["count"]
    _, bare, _ = post(server, "/tokenize", {"prompt": "the", "add_special_tokens": False})
    assert bare["tokens"] == said["tokens"][1:]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"content": None}),
        ("/tokenize", {"content": 5}),
        ("/tokenize", {"content": "x", "with_piece": True}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [99999]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": ["x"]}),
    ],
)
def test_what_is_no_text_or_token_is_refused(server: Running, path: str, body: Any) -> None:
    status, content, _ = post(server, path, body)
    assert status == 400
    assert content["error"]["message"]
