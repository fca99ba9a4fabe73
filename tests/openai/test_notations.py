"""Tool calls in the notations of model families, whole and cut at every place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pass_edge.openai.notations import NOTATIONS, notation_of
from pass_edge.openai.tools import ToolCallParser
from tests.support.call_texts import ADD, PARIS, SCHEMAS, TEXTS, A, P

FENCED: dict[str, tuple[str, str, str, list[tuple[str, Any]]]] = {
    "a code block": (
        "<tool_call>",
        f'```json\n{{"name": "get_weather", "arguments": {P}}}\n```\n',
        "",
        [("get_weather", PARIS)],
    ),
    "a code block without a language, a list, and text": (
        "<tool_call>",
        f'```\n[{{"name": "get_weather", "arguments": {P}}},{{"name": "add", "arguments": {A}}}]\n```\nDone.',
        "Done.",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "two code blocks, one with two calls": (
        "<tool_call>",
        (
            f'```json\n{{"name": "get_weather", "arguments": {P}}}\n{{"name": "add", "arguments": {A}}}\n```'
            f'\n\n```tool_call\n{{"arguments": {P}, "name": "get_weather"}}\n```'
        ),
        "",
        [("get_weather", PARIS), ("add", ADD), ("get_weather", PARIS)],
    ),
    "a code block behind a call": (
        "<tool_call>",
        f'<tool_call>{{"name": "get_weather", "arguments": {P}}}</tool_call>\n```python\nx = 1\n```',
        "```python\nx = 1\n```",
        [("get_weather", PARIS)],
    ),
    "a code block of another function": (
        "<tool_call>",
        '```json\n{"name": "none", "arguments": {}}\n```',
        '```json\n{"name": "none", "arguments": {}}\n```',
        [],
    ),
    "code": ("<tool_call>", "```c++\n{}\n```\n``x``", "```c++\n{}\n```\n``x``", []),
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


@pytest.mark.parametrize("case", [*TEXTS.values(), *FENCED.values()], ids=[*TEXTS, *FENCED])
def test_calls_are_read_wherever_the_text_is_cut(case: tuple[str, str, str, list[tuple[str, Any]]]) -> None:
    template, text, content, calls = case
    expected = (content, calls)
    for cuts in [[text], [*text], *([text[:i], text[i:]] for i in range(1, len(text)))]:
        parser = ToolCallParser(SCHEMAS, notation_of(template))
        assert read(parser, cuts) == expected, cuts
        assert parser.is_complete == bool(calls)


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.name)
def test_a_template_shows_its_notation(notation: Any) -> None:
    for sign in notation.signs:
        assert notation_of(f"… {sign} …").name == notation.name
    assert notation_of("").name == "Hermes"


def test_arguments_come_in_pieces_after_the_name() -> None:
    text = f'<tool_call>{{"name": "get_weather", "arguments": {P}}}</tool_call>'
    parser = ToolCallParser(SCHEMAS)
    deltas = [delta for letter in text for delta in parser.feed(letter)]
    first, *further = (call for delta in deltas for call in delta["tool_calls"])
    assert first["function"] == {"name": "get_weather", "arguments": ""}
    assert all(set(call) == {"index", "function"} for call in further)
    assert len(further) == len(P)


def test_a_second_call_is_dropped_where_one_is_allowed() -> None:
    _, text, _, calls = TEXTS["line by line"]
    parser = ToolCallParser(SCHEMAS, is_parallel=False)
    assert read(parser, [*text]) == ("", calls[:1])


def test_a_call_that_is_cut_off_is_not_complete() -> None:
    parser = ToolCallParser(SCHEMAS)
    parser.feed('<tool_call>{"name": "add", "arguments": {"a": [1,')
    parser.finish()
    assert parser.calls[0]["function"]["arguments"] == '{"a": [1,'
    assert not parser.is_complete


def test_without_tools_all_text_is_for_the_user() -> None:
    text = TEXTS["Hermes"][1]
    assert read(ToolCallParser({}), [*text]) == (text, [])
