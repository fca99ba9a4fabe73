"""Checks of chats, tools, keys and templates."""

from __future__ import annotations

import datetime
import json
from typing import Any

import openai
from server_under_test import CHAT, KEY, TOOL, WORDS, Server, check


@check("chat_completion")
def chat(server: Server) -> None:
    """A chat: id, role, usage, `finish_reason`"""
    got = server.chat()
    assert "cmpl" in got["id"]
    assert got["usage"]["completion_tokens"] == 8
    assert got["choices"][0]["message"]["role"] == "assistant"
    assert got["choices"][0]["finish_reason"] == "length"


@check("chat_completion")
def content_parts(server: Server) -> None:
    """Content as a list of text parts"""
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "the best book"}]
    messages = [CHAT[0], {"role": "user", "content": parts}]
    assert server.chat(messages=messages, temperature=0)["choices"] == server.chat(temperature=0)["choices"]


@check("chat_completion")
def chat_stream(server: Server) -> None:
    """A stream: the role in the first chunk only, one id, no content in the last, usage if asked for"""
    options = {"include_usage": True}
    events = server.events("/chat/completions", messages=CHAT, max_tokens=8, stream_options=options)
    *chunks, usage = events
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in each["choices"][0]["delta"] for each in chunks[1:])
    assert len({each["id"] for each in events}) == 1
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 8


@check("chat_completion")
def openai_chat(server: Server) -> None:
    """OpenAI's client: chats"""
    got = server.client.chat.completions.create(model="gpt", messages=CHAT, max_tokens=8, seed=42)
    assert got.choices[0].finish_reason == "length"
    assert got.choices[0].message.content


@check("chat_completion")
def apply_template(server: Server) -> None:
    """`/apply-template` returns the prompt"""
    prompt = server.get("/apply-template", {"messages": CHAT})["prompt"]
    assert "<|im_start|>system\nBook<|im_end|>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


@check("chat_completion")
def response_format(server: Server) -> None:
    """`response_format`: `json_object` (with a schema or not) and `json_schema`"""
    for kind, text in (
        ({"type": "json_object", "schema": {"const": "42"}}, '"42"'),
        ({"type": "json_schema", "json_schema": {"schema": {"const": "foooooo"}}}, '"foooooo"'),
    ):
        got = server.chat(response_format=kind, max_tokens=20)
        assert got["choices"][0]["message"]["content"] == text
    items = {
        "type": "json_object",
        "schema": {"type": "array", "items": [{"type": "integer"}], "minItems": 1},
    }
    assert server.chat(response_format=items)["choices"][0]["message"]["content"].startswith("[")
    got = server.chat(response_format={"type": "json_object"})
    assert got["choices"][0]["message"]["content"].startswith("{")


@check("chat_completion")
def wrong_response_format(server: Server) -> None:
    """Wrong formats and schemas are 400"""
    for kind in (
        {"type": "sound"},
        {"type": "json_object", "schema": 123},
        {"type": "json_object", "schema": {"type": 123}},
        {"type": "json_object", "schema": {"type": "hiccup"}},
    ):
        body = {"messages": CHAT, "response_format": kind}
        status, content, _ = server.ask("/chat/completions", body)
        assert (status, "error" in content) == (400, True), kind


@check("chat_completion")
def json_schema(server: Server) -> None:
    """`json_schema` as a field of its own"""
    got = server.chat(json_schema={"const": "42"}, max_tokens=20)
    assert got["choices"][0]["message"]["content"] == '"42"'


@check("chat_completion")
def grammar(server: Server) -> None:
    """`grammar`, with `{5,5}`"""
    got = server.chat(grammar='root ::= "a"{5,5}', max_tokens=20)
    assert got["choices"][0]["message"]["content"] == "aaaaa"


@check("chat_completion")
def wrong_messages(server: Server) -> None:
    """Wrong messages are 400"""
    wrong: tuple[Any, ...] = (
        None,
        "string",
        [123],
        [{}],
        [{"role": 123}],
        [{"role": "system", "content": 123}],
        [{"role": "system", "content": "test"}, {}],
    )
    for messages in wrong:
        status, content, _ = server.ask("/chat/completions", {"messages": messages})
        assert (status, "error" in content) == (400, True), messages


@check("chat_completion")
def two_assistants(server: Server) -> None:
    """Two last messages of the assistant are 400"""
    said = {"role": "assistant", "content": "test"}
    assert server.ask("/chat/completions", {"messages": [CHAT[1], said, said]})[0] == 400


@check("chat_completion")
def prefill(server: Server) -> None:
    """A last message of the assistant is continued"""
    grammar = 'root ::= "a"'
    messages = [*CHAT, {"role": "assistant", "content": "Whill"}]
    got = server.get("/apply-template", {"messages": messages})["prompt"]
    assert got.endswith("<|im_start|>assistant\nWhill")
    assert server.chat(messages=messages, grammar=grammar)["choices"][0]["message"]["content"] == "a"


@check("chat_completion")
def timings(server: Server) -> None:
    """`timings_per_token`: timings in the chunks, but not in the first"""
    body = {"messages": CHAT, "max_tokens": 10, "timings_per_token": True}
    first, *rest = server.events("/chat/completions", **body, stream_options={"include_usage": True})
    assert "timings" not in first
    for name in ("prompt_per_second", "predicted_per_second", "predicted_n"):
        assert name in rest[-1]["timings"]
    assert rest[-1]["timings"]["predicted_n"] <= 10


@check("chat_completion")
def logprobs(server: Server) -> None:
    """`logprobs`, whole and streamed: tokens that join to the text"""
    asked: dict[str, Any] = {"model": "any", "messages": CHAT, "max_tokens": 5, "temperature": 0}
    asked |= {"logprobs": True, "top_logprobs": 10}
    choice = server.client.chat.completions.create(**asked).choices[0]
    tokens = choice.logprobs.content
    assert "".join(each.token for each in tokens) == choice.message.content
    assert all(
        each.logprob <= 0 and each.bytes is not None and len(each.top_logprobs) == 10 for each in tokens
    )
    chunks = [chunk.choices[0] for chunk in server.client.chat.completions.create(**asked, stream=True)]
    streamed = [each.token for chunk in chunks if chunk.logprobs for each in chunk.logprobs.content]
    assert streamed == [each.token for each in tokens]


@check("chat_completion")
def chat_logit_bias(server: Server) -> None:
    """`logit_bias` with OpenAI's client"""
    ids = server.get("/tokenize", {"content": f" {' '.join(WORDS)} "})["tokens"]
    bias = {str(token): -100 for token in ids}
    got = server.client.chat.completions.create(
        model="any", messages=CHAT, max_tokens=64, logit_bias=bias, temperature=0
    )
    assert not any(f" {word} " in (got.choices[0].message.content or "") for word in WORDS)


@check("chat_completion")
def too_long(server: Server) -> None:
    """Messages that do not fit are 400, streamed or not"""
    for stream in (True, False):
        status, content, _ = server.ask("/chat/completions", {"messages": CHAT * 100, "stream": stream})
        assert (status, content["error"]["code"]) == (400, "context_length_exceeded")


@check("chat_completion")
def choices(server: Server) -> None:
    """`n` choices"""
    got = server.chat(n=2)["choices"]
    assert [each["finish_reason"] for each in got] == ["length", "length"]
    assert all(each["message"]["role"] == "assistant" for each in got)


@check("security")
def wrong_key(server: Server) -> None:
    """Without the key, or with a wrong one: 401, `authentication_error`"""
    for headers in ({}, {"Authorization": "Bearer invalid-key"}):
        status, content, _ = server.ask("/completions", {"prompt": "x"}, **headers)
        assert (status, content["error"]["type"]) == (401, "authentication_error")
    assert server.ask("/health")[0] == 200


@check("security")
def right_key(server: Server) -> None:
    """The key is taken from `Authorization` and from `X-Api-Key`"""
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X_Api_Key": KEY}):
        assert server.ask("/completion", {"prompt": "x", "n_predict": 2}, **headers)[0] == 200


@check("security")
def base_url(server: Server) -> None:
    """OpenAI's client with a base URL without `/v1`"""
    client = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
    assert len(client.chat.completions.create(model="any", messages=CHAT, max_tokens=2).choices) == 1


@check("security")
def media(server: Server) -> None:
    """Images are 400 where there are none to read"""
    part = {"type": "image_url", "image_url": {"url": "file://mtmd/test-1.jpeg"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "test"}, part]}]
    assert server.ask("/chat/completions", {"messages": messages})[0] == 400


@check("template")
def thinking(server: Server) -> None:
    """The template is told whether to think (a template with `enable_thinking`)"""
    ends = ("assistant\n", "assistant\n<think>\n\n</think>\n\n")
    for enabled, end in zip((True, False), ends, strict=True):
        body = {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": enabled}}
        assert server.get("/apply-template", body)["prompt"].endswith(end)
        assert server.get("/apply-template", body, tools=[])["prompt"].endswith(end)


@check("template")
def date(server: Server) -> None:
    """The template knows the date (`strftime_now`)"""
    prompt = server.get("/apply-template", {"messages": CHAT})["prompt"]
    assert datetime.date.today().strftime("%d %b %Y") in prompt


@check("template")
def generation_prompt(server: Server) -> None:
    """`add_generation_prompt` false leaves the assistant's turn closed"""
    for opens in (True, False):
        body = {"messages": CHAT, "add_generation_prompt": opens}
        assert server.get("/apply-template", body)["prompt"].endswith("assistant\n") == opens


@check("tool_call")
def no_tool_call(server: Server) -> None:
    """Without tools, and with `tool_choice` "none", there is no call"""
    bodies: tuple[dict[str, Any], ...] = ({}, {"tools": []}, {"tools": [TOOL], "tool_choice": "none"})
    for body in bodies:
        assert "tool_calls" not in server.chat(**body, max_tokens=64)["choices"][0]["message"]


@check("tool_call")
def required_call(server: Server) -> None:
    """With `tool_choice` "required", there is one call, whole and streamed"""
    body: dict[str, Any] = {
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 100,
    }
    message = server.chat(**body)["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert message["content"] in (None, "")
    assert json.loads(call["function"]["arguments"]) == {"success": True}
    events = server.events("/chat/completions", messages=CHAT, seed=42, **body)
    parts = [part for each in events for part in each["choices"][0]["delta"].get("tool_calls", ())]
    assert parts[0]["function"]["name"] == "test"
    assert "".join(part["function"].get("arguments", "") for part in parts) == call["function"]["arguments"]
