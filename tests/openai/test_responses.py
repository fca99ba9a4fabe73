"""The Responses API is the chat in other words: requests become chats, answers become items and events."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from pass_edge import Engine, SettingsError
from pass_edge.openai.complete import complete
from pass_edge.openai.message_parser import MessageParser
from pass_edge.openai.notations import notation_of
from pass_edge.openai.requests import ChatCompletionRequest, ResponseRequest
from pass_edge.openai.response_formatter import ResponseFormatter
from pass_edge.openai.responses import chat_request
from pass_edge.openai.tools import ToolCallParser
from pass_edge.thinking import thinking_of

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "1", "name": "go", "arguments": "{}"}
OTHER = {**CALL, "call_id": "2"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "gone"}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm"}],
}
SAID = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Yes", "annotations": []}],
}


def called(*ids: str) -> list[dict[str, Any]]:
    function = {"name": "go", "arguments": "{}"}
    return [{"id": each, "type": "function", "function": function} for each in ids]


INPUTS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "text": ("Hi", [USER]),
    "parts": ([{"role": "user", "content": [{"type": "input_text", "text": each} for each in "Hi"]}], [USER]),
    "a typed message": ([{"type": "message", **USER}], [USER]),
    "roles": (
        [{"role": "developer", "content": "Go."}, USER],
        [{"role": "developer", "content": "Go."}, USER],
    ),
    "an answer": ([USER, SAID, USER], [USER, {"role": "assistant", "content": "Yes"}, USER]),
    "a refusal": (
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}],
        [{"role": "assistant", "content": "No"}],
    ),
    "calls of one turn": (
        [USER, CALL, OTHER, OUTPUT],
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": called("1", "2")},
            {"role": "tool", "tool_call_id": "1", "content": "gone"},
        ],
    ),
    "thinking, text and a call": (
        [USER, THOUGHT, SAID, CALL],
        [USER, {"role": "assistant", "content": "Yes", "reasoning_content": "Hm", "tool_calls": called("1")}],
    ),
    "a summary": (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}, CALL],
        [{"role": "assistant", "content": "", "reasoning_content": "Hm", "tool_calls": called("1")}],
    ),
    "thinking that is not told": (
        [THOUGHT | {"content": None}, SAID],
        [{"role": "assistant", "content": "Yes"}],
    ),
    "two answers": ([SAID, SAID], [{"role": "assistant", "content": "Yes"}] * 2),
    "an answer behind a call": (
        [CALL, SAID],
        [
            {"role": "assistant", "content": "", "tool_calls": called("1")},
            {"role": "assistant", "content": "Yes"},
        ],
    ),
    "an output of parts": (
        [{**OUTPUT, "output": [{"type": "input_text", "text": "gone"}]}],
        [{"role": "tool", "tool_call_id": "1", "content": "gone"}],
    ),
}


@pytest.mark.parametrize(("given", "expected"), INPUTS.values(), ids=INPUTS)
def test_input_items_become_messages(given: Any, expected: Any) -> None:
    assert chat_request(ResponseRequest(given)).messages == expected
    told = chat_request(ResponseRequest(given, instructions="Be brief.")).messages
    assert told == [{"role": "system", "content": "Be brief."}, *expected]


GO = {"type": "function", "name": "go", "parameters": {"type": "object"}, "strict": True}
GONE = {"type": "function", "function": {"name": "go", "parameters": {"type": "object"}, "strict": True}}
STOP, STOPPED = {"type": "function", "name": "stop"}, {"type": "function", "function": {"name": "stop"}}
SCHEMA = {"type": "object", "properties": {}}
CHATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limit": ({"max_output_tokens": 5}, {"max_tokens": 5}),
    "sampling": ({"temperature": 0.5, "seed": 3, "top_k": 7}, {"temperature": 0.5, "seed": 3, "top_k": 7}),
    "tools": ({"tools": [GO], "tool_choice": "required"}, {"tools": [GONE], "tool_choice": "required"}),
    "a tool": (
        {"tools": [GO, STOP], "tool_choice": {"type": "function", "name": "go"}},
        {"tools": [GONE, STOPPED], "tool_choice": {"type": "function", "function": {"name": "go"}}},
    ),
    "allowed tools": (
        {"tools": [GO, STOP], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [STOP]}},
        {"tools": [STOPPED], "tool_choice": "required"},
    ),
    "text": ({"text": {"format": {"type": "text"}}}, {"response_format": {"type": "text"}}),
    "an object": (
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
    ),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "effort": ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
}


@pytest.mark.parametrize(("given", "expected"), CHATS.values(), ids=CHATS)
def test_parameters_become_those_of_chats(given: dict[str, Any], expected: dict[str, Any]) -> None:
    chat = chat_request(ResponseRequest("Hi", **given))
    assert {name: getattr(chat, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"previous_response_id": "resp_1"}, "whole conversation"),
        ({"conversation": {"id": "conv_1"}}, "whole conversation"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "whole conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "no prompts"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "logprobs"),
        ({"n": 2}, "always one"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [GO], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "text.format"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input_image"),
        ({"input": [{"type": "web_search_call"}]}, "web_search_call"),
        ({"input": [{"type": "function_call"}]}, "malformed"),
        ({"input": [{"role": "user"}]}, "malformed"),
        ({"input": [3]}, "malformed"),
        ({"input": []}, "no messages"),
    ],
)
def test_what_is_not_supported_is_refused_in_words(engine: Engine, given: Any, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        complete(engine, ResponseRequest(**{"input": "Hi", **given}))


TEMPLATE = "<think></think> <tool_call>"
GO_CALL = '<tool_call>\n{"name": "go", "arguments": {"n": 1}}\n</tool_call>'
# text, why it ended, (type, status, text or arguments) of the items
TEXTS: dict[str, tuple[str, str, list[tuple[str, str, str]]]] = {
    "text": ("Yes, no.", "stop", [("message", "completed", "Yes, no.")]),
    "nothing": ("", "stop", [("message", "completed", "")]),
    "a call behind line feeds": (f"\n\n{GO_CALL}", "stop", [("function_call", "completed", '{"n": 1}')]),
    "cut off": ("Yes", "length", [("message", "incomplete", "Yes")]),
    "the context is full": ("Yes", "context", [("message", "incomplete", "Yes")]),
    "thinking": (
        "<think>Hm</think>\n\nYes",
        "stop",
        [("reasoning", "completed", "Hm"), ("message", "completed", "Yes")],
    ),
    "only thinking": (
        "<think>Hm</think>",
        "stop",
        [("reasoning", "completed", "Hm"), ("message", "completed", "")],
    ),
    "thinking that is cut off": ("<think>Hm", "length", [("reasoning", "incomplete", "Hm")]),
    "calls": (f"{GO_CALL}\n{GO_CALL}", "stop", [("function_call", "completed", '{"n": 1}')] * 2),
    "all": (
        f"<think>Hm</think>Well. {GO_CALL}",
        "stop",
        [
            ("reasoning", "completed", "Hm"),
            ("message", "completed", "Well. "),
            ("function_call", "completed", '{"n": 1}'),
        ],
    ),
    "a call that is cut off": (
        '<tool_call>\n{"name": "go", "arguments": {"n"',
        "length",
        [("function_call", "incomplete", '{"n"')],
    ),
}


def formatter(engine: Engine, template: str = TEMPLATE) -> ResponseFormatter:
    def new_parser() -> MessageParser:
        tools = ToolCallParser({"go": {"type": "object"}}, notation_of(template))
        return MessageParser(thinking_of(template), tools)

    return ResponseFormatter(ResponseRequest("Hi"), "m", engine.model.vocabulary, new_parser)


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 50,
    "total_tokens": 59,
    "prompt_tokens_details": {"cached_tokens": 4},
    "draft": {},
}


def items_of(response: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (
            item["type"],
            item["status"],
            item["arguments"] if "arguments" in item else item["content"][0]["text"],
        )
        for item in response["output"]
    ]


@pytest.mark.parametrize("case", TEXTS.values(), ids=TEXTS)
def test_events_add_up_to_the_response_wherever_the_text_is_cut(engine: Engine, case: Any) -> None:
    text, reason, expected = case
    generation: Any = SimpleNamespace(text=text, finish_reason=reason)
    whole = formatter(engine).result([generation], USAGE)
    assert items_of(whole) == expected
    assert whole["status"] == ("completed" if reason == "stop" else "incomplete")
    for cuts in [[text], [*text], *([text[:i], text[i:]] for i in range(1, len(text), 5))]:
        told = formatter(engine)
        events = [
            *told.first_chunks(0),
            *itertools.chain(*(told.text_chunks(0, generation, part, 0) for part in cuts)),
            *told.last_chunks(0, generation, 0),
            told.usage_chunk(USAGE),
        ]
        assert items_of(events[-1]["response"]) == expected
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        kinds = [event["type"].removeprefix("response.") for event in events]
        assert kinds[:2] == ["created", "in_progress"]
        assert kinds[-1] == whole["status"]
        assert events[0]["response"]["status"] == "in_progress"
        for index, item in enumerate(events[-1]["response"]["output"]):
            mine = [event for event in events if event.get("output_index") == index]
            first, *growth, last = mine
            assert (first["type"], last["type"]) == (
                "response.output_item.added",
                "response.output_item.done",
            )
            assert first["item"] == {**item, "status": "in_progress", **empty(item)}
            assert last["item"] == item
            assert {event["item_id"] for event in growth} == {item["id"]}
            deltas = [event["delta"] for event in growth if event["type"].endswith(".delta")]
            (done,) = (event for event in growth if event["type"].endswith(("text.done", "arguments.done")))
            assert "".join(deltas) == done.get("text", done.get("arguments")) == expected[index][2]


def test_white_space_before_a_call_is_no_message(engine: Engine) -> None:
    generation: Any = SimpleNamespace(text=f" \n{GO_CALL} Done.", finish_reason="stop")
    response = formatter(engine, "<tool_call>").result([generation], USAGE)
    assert [kind for kind, _, _ in items_of(response)] == ["function_call", "message"]
    assert items_of(response)[1][2].strip("\n") in (" Done.", "Done.")


def empty(item: dict[str, Any]) -> dict[str, Any]:
    return {"arguments": ""} if "arguments" in item else {"content": []}


def test_usage_tells_of_the_thinking(engine: Engine) -> None:
    generation: Any = SimpleNamespace(text="<think>the yes</think>no", finish_reason="stop")
    usage = formatter(engine).result([generation], USAGE)["usage"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == len(
        engine.model.vocabulary.tokenize("the yes")
    )
    assert usage["input_tokens_details"] == {"cached_tokens": 4, "cache_write_tokens": 5}
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (9, 50, 59)


def test_the_text_is_the_chats(engine: Engine) -> None:
    asked: dict[str, Any] = {"seed": 4, "temperature": 1.0, "max_tokens": 30}
    response = complete(engine, ResponseRequest("yes the", **asked))
    chat = complete(engine, ChatCompletionRequest([{"role": "user", "content": "yes the"}], **asked))
    assert response["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert response["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
    assert response["store"] is False
    assert response["temperature"] == 1.0
