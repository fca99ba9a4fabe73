"""A forced call is written in the model's own notation, whether its marks are tokens or text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Sampling, Settings, SettingsError
from pass_edge.native.constraint import Constraint
from pass_edge.openai.answer_grammar import answer_grammar
from pass_edge.openai.notations import HERMES, NOTATIONS, Notation, python_calls, xml_calls
from pass_edge.openai.requests import ChatCompletionRequest
from pass_edge.openai.tools import ToolCallParser, forced_call_grammar, free_call_grammar, schemas_of
from pass_edge.server.request_schemas import ChatBody
from tests.support.chat_requests import GO

TOOLS: list[dict[str, Any]] = [
    GO,
    {
        "type": "function",
        "function": {
            "name": "stop",
            "parameters": {
                "type": "object",
                "properties": {"place": {"$ref": "#/$defs/Place"}},
                "required": ["place"],
                "$defs": {"Place": {"enum": ["here", "😀"]}},
            },
        },
    },
]


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.name)
@pytest.mark.parametrize("choice", ["required", {"function": {"name": "stop"}}])
def test_forced_calls_are_read_again(engine: Engine, notation: Notation, choice: Any) -> None:
    vocabulary = engine.model.vocabulary
    grammar = forced_call_grammar(TOOLS, choice, notation, vocabulary)
    seen = set()
    for seed in range(4):
        sampling = Sampling(seed=seed, temperature=1.5, grammar=grammar)
        visible = vocabulary.control_tokens_in("".join(notation.texts))
        answer = engine.stream("x", sampling=sampling, max_tokens=400, visible=visible).run()
        parser = ToolCallParser(schemas_of(TOOLS), notation)
        assert not "".join(
            delta.get("content", "") for delta in [*parser.feed(answer.text), *parser.finish()]
        )
        calls = parser.calls if answer.finish_reason == "stop" else parser.calls[:-1]
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            seen.add(call["function"]["name"])
            if call["function"]["name"] == "stop":
                assert arguments["place"] in ("here", "😀")
            else:
                assert isinstance(arguments["fast"], bool)
        assert choice == "required" or len(calls) == 1
    assert seen
    assert choice == "required" or seen == {"stop"}


def test_drafts_change_nothing_in_a_forced_call(engine: Engine, speaking_path: Path) -> None:
    grammar = forced_call_grammar(TOOLS, "required", NOTATIONS[-1], engine.model.vocabulary)
    with Engine(speaking_path, settings=Settings(schedule="plain", threads=1)) as plain:
        for seed in range(4):
            sampling = Sampling(seed=seed, temperature=0.8, grammar=grammar)
            expected = plain.stream("x", sampling=sampling, max_tokens=300).run()
            answer = engine.stream("x", sampling=sampling, max_tokens=300).run()
            assert answer.ids == expected.ids
            assert answer.stats.passes < expected.stats.passes / 2


def written(notation: Notation, name: str, place: str) -> str:
    """A call as a model writes it in this notation."""
    if notation.arguments is python_calls.write:
        arguments = f'place="{place}"'
    elif isinstance(dialect := getattr(notation.arguments, "__self__", None), xml_calls.Dialect):
        arguments = f"{dialect.before.replace('%NAME', 'place')}{place}{dialect.after}"
    elif "call:" in notation.form:
        quote = notation.marks[1]
        arguments = f"{{place:{quote}{place}{quote}}}"
    else:
        arguments = f'{{"place": "{place}"}}'
    return notation.form.replace("%NAME", name).replace("%ARGUMENTS", arguments)


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.name)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_the_arguments_of_a_free_call_match_its_schema(
    engine: Engine, notation: Notation, is_parallel: bool
) -> None:
    if "▁" in notation.opener or "｜" in notation.opener:
        pytest.skip("this tokenizer cannot write these tags")
    vocabulary = engine.model.vocabulary
    grammar = free_call_grammar(TOOLS, notation, vocabulary, is_parallel=is_parallel)
    constraint = Constraint(vocabulary, grammar)
    before, after = notation.around
    right, wrong = written(notation, "stop", "here"), written(notation, "stop", "nowhere")
    text = "Text " if notation.opener else ""
    for written_text, allowed in (
        ("Free text.", True),
        (before + right + after, True),
        (before + wrong + after, False),
        (before + written(notation, "fly", "here") + after, False),
        (text + before + right + after, True),
        (before + right + notation.between + right + after, is_parallel),
        (before + right + notation.between + wrong + after, False),
    ):
        tokens = vocabulary.tokenize(written_text, parse_special=True).tolist()
        while tokens and not vocabulary.piece(tokens[0], special=True).strip():
            tokens = tokens[1:]  # the space that this tokenizer puts before a text
        assert (constraint.count_allowed(tokens) == len(tokens)) == allowed, written_text
        constraint.restart()


@pytest.mark.parametrize(
    ("fields", "is_parallel"),
    [({}, False), ({"parallel_tool_calls": False}, False), ({"parallel_tool_calls": True}, True)],
)
def test_several_calls_are_forced_only_where_that_is_asked_for(
    engine: Engine, fields: dict[str, Any], is_parallel: bool
) -> None:
    body = ChatBody(
        messages=[{"role": "user", "content": "x"}], tools=TOOLS, tool_choice="required", **fields
    )
    vocabulary = engine.model.vocabulary
    answer = answer_grammar(body.request("model"), TOOLS, HERMES, None, vocabulary)
    call = written(HERMES, "stop", "here")
    tokens = vocabulary.tokenize(call + HERMES.between + call).tolist()
    while tokens and not vocabulary.piece(tokens[0]).strip():
        tokens = tokens[1:]
    constraint = Constraint(vocabulary, answer.grammar)
    assert (constraint.count_allowed(tokens) == len(tokens)) == is_parallel


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.name)
def test_an_answer_in_a_format_may_be_a_call_instead(engine: Engine, notation: Notation) -> None:
    if "▁" in notation.opener or "｜" in notation.opener:
        pytest.skip("this tokenizer cannot write these tags")
    vocabulary = engine.model.vocabulary
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    asked = ChatCompletionRequest(
        [], tools=TOOLS, response_format={"type": "json_schema", "json_schema": {"schema": schema}}
    )
    answer = answer_grammar(asked, TOOLS, notation, None, vocabulary)
    constraint = Constraint(vocabulary, answer.grammar)
    before, after = answer.notation.around
    call = before + written(notation, "stop", "here") + after
    for text, n_calls in ((call, 1), ('{"ok": true}', 0), ('{"ok": 1}', None), ("Free text.", None)):
        tokens = vocabulary.tokenize(text, parse_special=True).tolist()
        while tokens and not vocabulary.piece(tokens[0], special=True).strip():
            tokens = tokens[1:]
        assert (constraint.count_allowed(tokens) == len(tokens)) == (n_calls is not None), text
        constraint.restart()
        parser = answer.new_parser()
        content = "".join(delta.get("content", "") for delta in [*parser.feed(text), *parser.finish()])
        assert len(parser.calls) == (n_calls or 0)
        assert content == (text if not n_calls else "")


def test_a_strict_function_with_an_unsupported_schema_is_refused(engine: Engine) -> None:
    function = {"name": "go", "parameters": {"type": "object", "propertyNames": {"pattern": "a"}}}
    tools = [{"type": "function", "function": function}]
    assert free_call_grammar(tools, NOTATIONS[-1], engine.model.vocabulary) == ""
    tools = [{"type": "function", "function": {**function, "strict": True}}]
    with pytest.raises(SettingsError, match="propertyNames"):
        free_call_grammar(tools, NOTATIONS[-1], engine.model.vocabulary)
