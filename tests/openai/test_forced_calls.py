"""A forced call is written in the model's own notation, whether its marks are tokens or text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Sampling, Settings
from pass_edge.openai.notations import NOTATIONS, Notation
from pass_edge.openai.tools import ToolCallParser, forced_call_grammar
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
