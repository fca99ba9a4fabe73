"""Tools reach the template, a grammar forces calls, and calls are read from the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Settings, SettingsError
from pass_edge.native.chat_template import render
from pass_edge.native.default_templates import CHATML
from pass_edge.native.model import Model
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.openai.complete import complete
from pass_edge.openai.messages import plain_messages
from pass_edge.openai.requests import ChatCompletionRequest
from tests.support.chat_requests import GO, MESSAGES, STOP


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "go"}}])
def test_a_forced_call_matches_its_schema(engine: Engine, choice: Any) -> None:
    for seed in range(3):
        asked = {
            "messages": MESSAGES,
            "tools": [GO, STOP],
            "tool_choice": choice,
            "seed": seed,
            "max_tokens": 150,
        }
        answer = complete(engine, ChatCompletionRequest(**asked))["choices"][0]
        if answer["finish_reason"] == "length":  # stop takes any object, which may never end
            assert choice == "required"
            continue
        assert answer["finish_reason"] == "tool_calls"
        (call,) = answer["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "go":
            assert isinstance(arguments["fast"], bool)
        chunks = list(complete(engine, ChatCompletionRequest(**asked, stream=True)))
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        first, *pieces = [
            call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())
        ]
        assert first["function"] == {"name": call["function"]["name"], "arguments": ""}
        arguments = "".join(piece["function"]["arguments"] for piece in pieces)
        assert arguments == call["function"]["arguments"]
        assert not any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)


def test_the_template_is_shown_the_tools(engine: Engine) -> None:
    free = complete(engine, ChatCompletionRequest(MESSAGES, max_tokens=1))["usage"]["prompt_tokens"]
    with_tools = complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO], max_tokens=1))["usage"][
        "prompt_tokens"
    ]
    without = complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO], tool_choice="none", max_tokens=1))[
        "usage"
    ]
    assert with_tools > free == without["prompt_tokens"]


def test_a_message_without_content_is_an_empty_one(engine: Engine) -> None:
    said = [{"role": "user", "content": "Go."}, {"role": "assistant"}, {"role": "user", "content": "On."}]
    empty, none = (engine.render([said[0], said[1] | {"content": c}, said[2]]) for c in ("", None))
    assert empty == none == engine.render(said)


def test_a_template_without_tools_chooses_none(tmp_path: Path) -> None:
    path = write_tiny_model(
        tmp_path / "m.gguf", n_embd=64, n_head=2, n_ff=128, words=[], chat_template=CHATML
    )
    with Engine(path, settings=Settings(schedule="plain", threads=1)) as engine:
        with pytest.raises(SettingsError, match="has no tools"):
            complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO]))
        forced = complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO], tool_choice="required", seed=1))
    for call in forced["choices"][0]["message"]["tool_calls"]:
        assert set(json.loads(call["function"]["arguments"])) == {"fast"}


def test_messages_reach_the_template_as_it_wants_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "go", "arguments": '{"fast": true}'}}
    got = plain_messages(
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "done"},
        ]
    )
    assert [message["content"] for message in got] == ["ab", "", "done"]
    assert got[1]["tool_calls"][0]["function"]["arguments"] == {"fast": True}
    assert got[2]["tool_call_id"] == "1"


@pytest.mark.parametrize("arguments", ["", None, "null", "{}", {}])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "go", "arguments": arguments}}
    (got,) = plain_messages([{"role": "assistant", "tool_calls": [call]}])
    assert got["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["[1]", "1", "{", 3, [1]])
def test_arguments_that_are_no_object_are_refused(arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "go", "arguments": arguments}}
    with pytest.raises(SettingsError, match="tool call"):
        plain_messages([{"role": "assistant", "tool_calls": [call]}])


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("call.function.arguments | tojson", '{"a": "b"}'),
        ("call.function.arguments", '{"a": "b"}'),
        ("'' + call.function.arguments", '{"a": "b"}'),
        ("call.function.arguments.items() | list", "[('a', 'b')]"),
    ],
)
def test_a_template_gets_arguments_as_it_writes_them(tmp_path: Path, arguments: str, written: str) -> None:
    template = (
        "{% for message in messages %}{% for call in message.tool_calls or [] %}"
        "{{ " + arguments + " }}{% endfor %}{% endfor %}"
    )
    path = write_tiny_model(
        tmp_path / "m.gguf", n_embd=64, n_head=2, n_ff=128, words=[], chat_template=template
    )
    call = {"id": "1", "type": "function", "function": {"name": "go", "arguments": {"a": "b"}}}
    with Model(path) as model:
        assert render(model, [{"role": "assistant", "content": "", "tool_calls": [call]}]) == written
