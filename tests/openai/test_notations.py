"""Tool calls in the notations of model families, whole and cut at every place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pass_edge.openai.notations import NOTATIONS, notation_of
from pass_edge.openai.tools import ToolCallParser

NAMES = ["get_weather", "add"]
PARIS: dict[str, Any] = {"city": "Paris", "days": 2}
ADD: dict[str, Any] = {"a": [1, 2], "b": {"c": 'x"}{'}, "é": True}
P, A = json.dumps(PARIS), json.dumps(ADD, ensure_ascii=False)

# notation of the template, text, content, calls
TEXTS: dict[str, tuple[str, str, str, list[tuple[str, Any]]]] = {
    "Hermes": (
        "<tool_call>",
        f'<tool_call>\n{{"name": "get_weather", "arguments": {P}}}\n</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "Hermes, text around two calls": (
        "<tool_call>",
        (
            f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {P}}}\n</tool_call>\n'
            f'<tool_call>{{"name": "add", "arguments": {A}}}</tool_call>\nDone <b>.'
        ),
        "Let me see.\nDone <b>.",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "Hermes, arguments first": (
        "<tool_call>",
        f'<tool_call>{{"arguments": {P}, "name": "get_weather"}}</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "Qwen3-Coder": (
        "<function=",
        (
            "I call:\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
            "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
        ),
        "I call:\n\n",
        [("get_weather", PARIS)],
    ),
    "Qwen3-Coder, several lines": (
        "<function=",
        (
            "<tool_call>\n<function=add>\n<parameter=a>\ndef f():\n    return '<b>'\n</parameter>\n"
            '<parameter=b>\n{"c": [1]}\n</parameter>\n</function>\n</tool_call>\n'
            "<tool_call>\n<function=add>\n"
            "</function>\n</tool_call>"
        ),
        "",
        [("add", {"a": "def f():\n    return '<b>'", "b": {"c": [1]}}), ("add", {})],
    ),
    "Llama 3": (
        "<|python_tag|>",
        f'{{"name": "get_weather", "parameters": {P}}}',
        "",
        [("get_weather", PARIS)],
    ),
    "Llama 3, a tag and two calls": (
        "<|python_tag|>",
        (
            f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {P}}}; '
            f'{{"name": "add", "parameters": {A}}}'
        ),
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "a list": (
        "",
        f'[{{"name": "get_weather", "arguments": {P}}}, {{"name": "add", "arguments": {A}}}]',
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "line by line": (
        "",
        f'{{"name": "get_weather", "arguments": {P}}}\n{{"name": "add", "arguments": {A}}}\nThat is all.',
        "That is all.",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "OpenAI's own form": (
        "",
        json.dumps({"type": "function", "function": {"name": "add", "arguments": A}}),
        "",
        [("add", ADD)],
    ),
    "Mistral": (
        "[TOOL_CALLS]",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {P}}}, {{"name": "add", "arguments": {A}}}]',
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "Mistral, with names before": (
        "[TOOL_CALLS]",
        f"Well[TOOL_CALLS]get_weather[ARGS]{P}[TOOL_CALLS]add[CALL_ID]abc123xyz[ARGS]{A}",
        "Well",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "LFM2": (
        "<|tool_call_start|>",
        '<|tool_call_start|>[get_weather(city="Paris", days=2)]<|tool_call_end|>Checking the weather.',
        "Checking the weather.",
        [("get_weather", PARIS)],
    ),
    "LFM2, two calls": (
        "<|tool_call_start|>",
        (
            "<|tool_call_start|>[get_weather(city='Paris', days=2), add(a=[1, 2], b={'c': 'x\"}{('}, é=True)]"
            "<|tool_call_end|>"
        ),
        "",
        [("get_weather", PARIS), ("add", ADD | {"b": {"c": 'x"}{('}})],
    ),
    "Gemma": (
        "<start_function_call>",
        (
            "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>"
            '<start_function_call>call:add{a:[1,2],b:{c:<escape>x"}{<escape>}}<end_function_call>'
        ),
        "",
        [("get_weather", PARIS), ("add", {"a": [1, 2], "b": {"c": 'x"}{'}})],
    ),
    "DeepSeek R1": (
        "<｜tool▁call▁begin｜>",
        (
            "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            f"{P}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{A}\n```"
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        "Hm.",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "DeepSeek V3.1": (
        "<｜tool▁call▁begin｜>",
        (
            f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{P}<｜tool▁call▁end｜>"
            f"<｜tool▁call▁begin｜>add<｜tool▁sep｜>{A}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "gpt-oss": (
        "<|channel|>",
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{P}<|call|>",
        "",
        [("get_weather", PARIS)],
    ),
    "gpt-oss, the recipient first": (
        "<|channel|>",
        f"<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{A}<|call|>",
        "",
        [("add", ADD)],
    ),
    # no calls
    "a description of a tool": (
        "<tool_call>",
        '[{"name": "get_weather", "description": "Tells the weather."}]',
        '[{"name": "get_weather", "description": "Tells the weather."}]',
        [],
    ),
    "arguments that are no object": (
        "<tool_call>",
        '{"name": "get_weather", "arguments": [1]}',
        '{"name": "get_weather", "arguments": [1]}',
        [],
    ),
    "another function": (
        "<tool_call>",
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        [],
    ),
    "what begins like a tag": ("<tool_call>", "no call < at <tool all", "no call < at <tool all", []),
    "a list of numbers": ("", "  [1, 2]", "  [1, 2]", []),
    "another JSON": ("", '{"city": {"name": "get_weather"}}', '{"city": {"name": "get_weather"}}', []),
    "a call in the middle of a sentence": (
        "",
        f'see {{"name": "get_weather", "arguments": {P}}}',
        f'see {{"name": "get_weather", "arguments": {P}}}',
        [],
    ),
}


def read(parser: ToolCallParser, parts: list[str]) -> tuple[str, list[tuple[str, Any]]]:
    """The content and the calls that a client puts together from the deltas."""
    deltas = [delta for part in parts for delta in parser.feed(part)] + parser.finish()
    content, calls = "", []
    for delta in deltas:
        content += delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(calls)
                calls.append([call["function"]["name"], ""])
            calls[call["index"]][1] += call["function"]["arguments"]
    assert [(name, text) for name, text in calls] == [
        (call["function"]["name"], call["function"]["arguments"]) for call in parser.calls
    ]
    return content, [(name, json.loads(text)) for name, text in calls]


@pytest.mark.parametrize("case", TEXTS.values(), ids=TEXTS)
def test_calls_are_read_wherever_the_text_is_cut(case: tuple[str, str, str, list[tuple[str, Any]]]) -> None:
    template, text, content, calls = case
    expected = (content, calls)
    for cuts in [[text], [*text], *([text[:i], text[i:]] for i in range(1, len(text)))]:
        parser = ToolCallParser(NAMES, notation_of(template))
        assert read(parser, cuts) == expected, cuts
        assert parser.is_complete == bool(calls)


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.name)
def test_a_template_shows_its_notation(notation: Any) -> None:
    assert notation_of(f"… {notation.template} …").name == notation.name
    assert notation_of("").name == "Hermes"


def test_arguments_come_in_pieces_after_the_name() -> None:
    text = f'<tool_call>{{"name": "get_weather", "arguments": {P}}}</tool_call>'
    parser = ToolCallParser(NAMES)
    deltas = [delta for letter in text for delta in parser.feed(letter)]
    first, *further = (call for delta in deltas for call in delta["tool_calls"])
    assert first["function"] == {"name": "get_weather", "arguments": ""}
    assert all(set(call) == {"index", "function"} for call in further)
    assert len(further) == len(P)


def test_a_second_call_is_dropped_where_one_is_allowed() -> None:
    _, text, _, calls = TEXTS["line by line"]
    parser = ToolCallParser(NAMES, is_parallel=False)
    assert read(parser, [*text]) == ("", calls[:1])


def test_a_call_that_is_cut_off_is_not_complete() -> None:
    parser = ToolCallParser(NAMES)
    parser.feed('<tool_call>{"name": "add", "arguments": {"a": [1,')
    parser.finish()
    assert parser.calls[0]["function"]["arguments"] == '{"a": [1,'
    assert not parser.is_complete


def test_without_tools_all_text_is_for_the_user() -> None:
    text = TEXTS["Hermes"][1]
    assert read(ToolCallParser([]), [*text]) == (text, [])
