"""A last message of the assistant is continued: the prompt ends with it, and the answer is what follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Sampling, Settings, SettingsError
from pass_edge.openai.complete import complete
from pass_edge.openai.message_parser import MessageParser
from pass_edge.openai.requests import ChatCompletionRequest
from pass_edge.openai.tools import ToolCallParser
from pass_edge.thinking import begun_turn, thinking_of
from tests.support.chat_requests import GO, MESSAGES
from tests.support.reciting_model import write_reciting_model

PIECES = ["One", " two", " three", " four", " five"]
COUNT = {"role": "user", "content": "Count."}


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = write_reciting_model(tmp_path_factory.mktemp("reciting") / "model.gguf", PIECES)
    with Engine(path, settings=Settings(threads=1)) as engine:
        yield engine


def begun(content: Any, **message: Any) -> list[dict[str, Any]]:
    return [COUNT, {"role": "assistant", "content": content, **message}]


@pytest.mark.parametrize(
    "content", ["One two", [{"type": "text", "text": "One"}, {"type": "text", "text": " two"}]]
)
@pytest.mark.parametrize("flags", [{}, {"continue_final_message": True}, {"add_generation_prompt": True}])
def test_the_answer_is_what_follows(reciting: Engine, content: Any, flags: dict[str, Any]) -> None:
    asked = ChatCompletionRequest(begun(content), temperature=0, **flags)
    result = complete(reciting, asked)
    assert result["choices"][0]["message"]["content"] == " three four five"
    assert result["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("message", [{"content": ""}, {"content": None}])
def test_an_empty_message_is_answered_from_its_beginning(reciting: Engine, message: dict[str, Any]) -> None:
    asked = ChatCompletionRequest([COUNT, {"role": "assistant", **message}], temperature=0)
    assert complete(reciting, asked)["choices"][0]["message"]["content"] == "".join(PIECES)


def test_a_message_that_is_not_to_be_continued_is_followed_by_another(reciting: Engine) -> None:
    asked = ChatCompletionRequest(begun("One two"), temperature=0, continue_final_message=False)
    assert complete(reciting, asked)["choices"][0]["message"]["content"] == "".join(PIECES)


@pytest.mark.parametrize("content", ["the yes", " ", "{", 'x {"name": "go", "arguments": {'])
@pytest.mark.parametrize("tools", [None, [GO]])
def test_the_prompt_ends_with_the_message(engine: Engine, content: str, tools: Any) -> None:
    """Not with the end of the assistant's turn; and a stream joins to the whole."""
    asked: dict[str, Any] = {"max_tokens": 30, "seed": 5, "temperature": 1.0, "tools": tools}
    messages = [*MESSAGES, {"role": "assistant", "content": content}]
    message = complete(engine, ChatCompletionRequest(messages, **asked))["choices"][0]["message"]
    prompt = engine.tokenize(engine.prompt_text(MESSAGES, tools=tools) + content)
    if not tools:
        own = engine.stream(prompt, sampling=Sampling(seed=5, temperature=1.0), max_tokens=30).run()
        assert message["content"] == own.text
    chunks = complete(engine, ChatCompletionRequest(messages, **asked, stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]


SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
FORMAT = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}


@pytest.mark.parametrize("start", ["{", '{"ok": ', '{"ok": t', '{"o'])
@pytest.mark.parametrize("seed", range(3))
def test_a_response_format_describes_the_message_as_a_whole(engine: Engine, start: str, seed: int) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": start}]
    asked = ChatCompletionRequest(messages, seed=seed, temperature=1.5, response_format=FORMAT)
    content = complete(engine, asked)["choices"][0]["message"]["content"]
    assert isinstance(json.loads(start + content)["ok"], bool)


def test_a_grammar_describes_the_answer_alone(engine: Engine) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "yes"}]
    asked = ChatCompletionRequest(messages, seed=1, grammar='root ::= "[" [a-z] "]"')
    assert complete(engine, asked)["choices"][0]["message"]["content"][::2] == "[]"


@pytest.mark.parametrize(
    ("messages", "options", "complaint"),
    [
        ([*begun("a"), {"role": "assistant", "content": "b"}], {}, "only one can be continued"),
        (
            begun("", tool_calls=[{"id": "1", "type": "function", "function": {"name": "go"}}]),
            {},
            "tool calls",
        ),
        (begun("a"), {"tools": [GO], "tool_choice": "required"}, "forced tool call"),
        (begun("a"), {"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
        ([COUNT], {"continue_final_message": True}, "role is assistant"),
        (begun("["), {"response_format": FORMAT}, "does not begin as the grammar"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    engine: Engine, messages: Any, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        complete(engine, ChatCompletionRequest(messages, max_tokens=3, **options))


def test_a_turn_that_is_not_opened(engine: Engine, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
    )
    path = write_reciting_model(tmp_path / "m.gguf", ["Yes."], template=template)
    with Engine(path, settings=Settings(threads=1)) as other:
        for opens, prompt in ((False, "Count.\n"), (True, "Count.\nA: "), (None, "Count.\nA: ")):
            asked = ChatCompletionRequest([COUNT], max_tokens=1, add_generation_prompt=opens)
            assert complete(other, asked)["usage"]["prompt_tokens"] == len(other.tokenize(prompt))


QWEN, HARMONY = "<think> </think>", "<|channel|>analysis<|message|> <|end|>"
BLOCK = "<think>\nSo.\n</think>\n\n"
FINAL = "<|channel|>final<|message|>"

# template, prompt, reasoning, content; how the prompt goes on; the new text, its thinking and its content
TURNS = {
    "content": (QWEN, "A:\n", "", "Yes", "<think>\n\n</think>\n\nYes", " <think>", "", " <think>"),
    "both": (QWEN, "A:\n", "So.", "Yes", f"{BLOCK}Yes", ", ok", "", ", ok"),
    "opened by the prompt": (QWEN, "<think>\n", "So.", "Yes", "So.\n</think>\n\nYes", "!", "", "!"),
    "closed by the prompt": (QWEN, "<think>\n\n</think>\n\n", "", "Yes", "Yes", "!", "", "!"),
    "reasoning": (QWEN, "A:\n", "So", "", "<think>\nSo", " be it.</think>\n\nYes", " be it.", "Yes"),
    "nothing": (QWEN, "A:\n", "", "", "", "<think>a</think>b", "a", "b"),
    "no thinking": ("", "A:", "So.", "Yes", "Yes", "!", "", "!"),
    "gpt-oss": (HARMONY, "A", "", "Yes", f"{FINAL}Yes", "!", "", "!"),
    "gpt-oss, both": (
        HARMONY, "A", "So.", "Yes",
        f"<|channel|>analysis<|message|>So.<|end|><|start|>assistant{FINAL}Yes", "!", "", "!",
    ),
    "gpt-oss, reasoning": (
        HARMONY, "A", "So", "", "<|channel|>analysis<|message|>So",
        f" what?<|end|><|start|>assistant{FINAL}Yes", " what?", "Yes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TURNS.values(), ids=TURNS)
def test_thinking_ends_before_content_and_is_continued_without(case: tuple[str, ...]) -> None:
    template, prompt, reasoning, content, expected, text, thought, answer = case
    turn, thinking = begun_turn(thinking_of(template, prompt), prompt, reasoning, content)
    assert turn == expected
    for cuts in ([text], [*text]):
        parser = MessageParser(thinking, ToolCallParser({}))
        deltas = [delta for part in cuts for delta in parser.feed(part)] + parser.finish()
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == thought
        assert "".join(delta.get("content", "") for delta in deltas) == answer
