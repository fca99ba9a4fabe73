"""The server's endpoints, as OpenAI's own client and curl use them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from typing import Any

import openai
import pytest

from pass_edge import Engine
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest
from tests.support.chat_requests import GO, MESSAGES
from tests.support.http_requests import get
from tests.support.serving import Running


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
    first, *pieces = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    assert first.function.name == "go"
    assert "".join(each.function.arguments for each in pieces) == call.function.arguments
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
RESPONSE = {"input": "yes the", "max_output_tokens": 5, "seed": 1}
ENDPOINTS = [
    ("/v1/chat/completions", CHAT, '"object": "chat.completion"'),
    ("/v1/chat/completions", {**CHAT, "stream": True}, "data: [DONE]"),
    ("/v1/completions", PROMPT, '"object": "text_completion"'),
    ("/v1/completions", {**PROMPT, "stream": True}, "data: [DONE]"),
    ("/completion", {"prompt": "the", "n_predict": 5}, '"content"'),
    ("/apply-template", {"messages": MESSAGES}, '"prompt": "user: yes the'),
    ("/tokenize", {"content": "the"}, '"tokens"'),
    ("/detokenize", {"tokens": [100]}, '"content"'),
    ("/v1/responses", RESPONSE, '"object": "response"'),
    ("/v1/responses", {**RESPONSE, "stream": True}, "event: response.incomplete"),
    ("/v1/models", None, '"tiny"'),
    ("/v1/models/{model}", None, '"tiny"'),
    ("/props", None, "tiny"),
    ("/slots", None, '"is_processing"'),
    ("/health", None, '"ok"'),
    ("/metrics", None, "pass_edge_requests"),
]


def test_the_endpoints_are_all_there_are(server: Running) -> None:
    """So that whoever adds one has curl and OpenAI's client ask it."""
    asked = {path for path, _, _ in ENDPOINTS} | {"/infill"}  # this model cannot; test_infill.py asks another
    assert set(json.loads(get(server, "/openapi.json")[1])["paths"]) == asked


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize(("path", "body", "expected"), ENDPOINTS)
def test_curl_is_answered(server: Running, path: str, body: dict[str, Any] | None, expected: str) -> None:
    command = ["curl", "-sSN", "--fail", server.url + path.format(model="tiny")]
    if body:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    said = subprocess.run(command, capture_output=True, timeout=20, check=True, text=True).stdout
    assert expected in said
    if body and body.get("stream") and "input" not in body:
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
