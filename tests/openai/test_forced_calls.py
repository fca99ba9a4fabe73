"""A forced call is written in the model's own notation, whether its marks are tokens or text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Sampling, Settings, SettingsError
from pass_edge.native.constraint import Constraint
from pass_edge.openai.notations import NOTATIONS, Notation
from pass_edge.openai.tools import ToolCallParser, forced_call_grammar, free_call_grammar
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
def test_a_forced_call_is_read_again(engine: Engine, notation: Notation, choice: Any) -> None:
    vocabulary = engine.model.vocabulary
    grammar = forced_call_grammar(TOOLS, choice, notation, vocabulary)
    for seed in range(4):
        sampling = Sampling(seed=seed, temperature=1.5, grammar=grammar)
        visible = vocabulary.control_tokens_in("".join(notation.texts))
        answer = engine.stream("x", sampling=sampling, max_tokens=300, visible=visible).run()
        assert answer.finish_reason == "stop"
        parser = ToolCallParser(["go", "stop"], notation)
        assert [*parser.feed(answer.text), *parser.finish()]
        (call,) = parser.calls
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "stop":
            assert arguments["place"] in ("here", "😀")
        else:
            assert choice == "required"
            assert isinstance(arguments["fast"], bool)


def test_drafts_change_nothing_in_a_forced_call(engine: Engine, speaking_path: Path) -> None:
    grammar = forced_call_grammar(TOOLS, "required", NOTATIONS[-1], engine.model.vocabulary)
    with Engine(speaking_path, settings=Settings(schedule="plain", threads=1)) as plain:
        for seed in range(4):
            sampling = Sampling(seed=seed, temperature=0.8, grammar=grammar)
            expected = plain.stream("x", sampling=sampling, max_tokens=300).run()
            answer = engine.stream("x", sampling=sampling, max_tokens=300).run()
            assert answer.ids == expected.ids
            assert answer.stats.passes < expected.stats.passes / 2


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.name)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_the_arguments_of_a_free_call_match_its_schema(
    engine: Engine, notation: Notation, is_parallel: bool
) -> None:
    vocabulary = engine.model.vocabulary
    grammar = free_call_grammar(TOOLS, notation, vocabulary, is_parallel=is_parallel)
    if not grammar:
        assert notation.name in ("gpt-oss", "LFM2", "Gemma", "Qwen3-Coder", "Llama 3")
        return
    if notation.name == "DeepSeek":
        return  # this tokenizer cannot write its tags: it takes ▁ for a space
    constraint = Constraint(vocabulary, grammar)
    opening, arguments = notation.form.replace("%NAME", "stop").split("%ARGUMENTS")
    for text, allowed in (
        ("Free text.", True),
        (opening, True),
        (f'{opening}{{"place": "here"}}', True),
        (f'{opening}{{"place": "nowhere"}}', False),
        (opening.replace("stop", "fly"), False),
        (f'Text {opening}{{"place": "here"}}{arguments}', True),
        (f'{opening}{{"place": "here"}}{arguments}{opening}', is_parallel),
    ):
        tokens = vocabulary.tokenize(text, parse_special=True).tolist()
        while tokens and not vocabulary.piece(tokens[0], special=True).strip():
            tokens = tokens[1:]  # the space that this tokenizer puts before a text
        assert (constraint.count_allowed(tokens) == len(tokens)) == allowed, text
        constraint.restart()


def test_a_strict_function_with_an_unsupported_schema_is_refused(engine: Engine) -> None:
    function = {"name": "go", "parameters": {"type": "object", "propertyNames": {"pattern": "a"}}}
    tools = [{"type": "function", "function": function}]
    assert free_call_grammar(tools, NOTATIONS[-1], engine.model.vocabulary) == ""
    tools = [{"type": "function", "function": {**function, "strict": True}}]
    with pytest.raises(SettingsError, match="propertyNames"):
        free_call_grammar(tools, NOTATIONS[-1], engine.model.vocabulary)
