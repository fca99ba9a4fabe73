"""Thinking is told apart from the answer, wherever the text is cut, and constraints begin behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pass_edge import Engine, Sampling, Settings, SettingsError
from pass_edge.native.constraint import schema_grammar
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.openai.answer_grammar import answer_grammar
from pass_edge.openai.complete import complete
from pass_edge.openai.message_parser import MessageParser
from pass_edge.openai.notations import notation_of
from pass_edge.openai.requests import ChatCompletionRequest
from pass_edge.openai.tools import ToolCallParser
from pass_edge.sampling.sampler import Sampler
from pass_edge.sampling.thinking_budget import BudgetedSampler
from pass_edge.text_stream import TextStream
from pass_edge.thinking import Thinking, closed_thinking, split_thinking, thinking_of
from tests.conftest import WORDS

QWEN = "{{ '<think>\\n\\n</think>' }} <tool_call>"
HARMONY = "<|channel|>analysis<|message|> <|end|>"
CALL = '<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call>'

# template, end of the prompt, text, thinking, content, calls
TEXTS = {
    "thinking and an answer": (QWEN, "", "<think>\nHm, < 3.\n</think>\n\nYes.", "Hm, < 3.", "Yes.", 0),
    "opened by the prompt": (QWEN, "assistant\n<think>\n", "Hm.\n</think>\n\nYes.", "Hm.", "Yes.", 0),
    "closed by the prompt": (QWEN, "<think>\n\n</think>\n\n", "Yes <think>.", "", "Yes <think>.", 0),
    "no thoughts": (QWEN, "", "<think>\n\n</think>\n\nYes.", "", "Yes.", 0),
    "no thinking": (QWEN, "", "Yes.", "", "Yes.", 0),
    "thinking that does not end": (QWEN, "", "<think>Well, </thi", "Well, </thi", "", 0),
    "a call behind it": (QWEN, "", f"<think>Call {CALL}?</think>\n{CALL}", f"Call {CALL}?", "", 1),
    "another template": ("no tags", "", "<think>a</think>b", "", "<think>a</think>b", 0),
    "Mistral": ("[THINK] [/THINK]", "", "[THINK]So.[/THINK]Yes.", "So.", "Yes.", 0),
    "gpt-oss": (
        HARMONY,
        "<|start|>assistant",
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        "So.",
        "Yes.",
        0,
    ),
    "gpt-oss without thinking": (HARMONY, "", "<|channel|>final<|message|>Yes.", "", "Yes.", 0),
    "gpt-oss, a call": (
        HARMONY,
        "",
        (
            "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>commentary to=functions.go "
            "<|constrain|>json<|message|>{}<|call|>"
        ),
        "So.",
        "",
        1,
    ),
}


@pytest.mark.parametrize("case", TEXTS.values(), ids=TEXTS)
def test_thinking_is_told_apart_wherever_the_text_is_cut(case: tuple[str, str, str, str, str, int]) -> None:
    template, prompt, text, thinking, content, n_calls = case
    for cuts in [[text], [*text], *([text[:i], text[i:]] for i in range(1, len(text)))]:
        tools = ToolCallParser({"go": {}}, notation_of(template))
        parser = MessageParser(thinking_of(template, prompt), tools)
        deltas = [delta for part in cuts for delta in parser.feed(part)] + parser.finish()
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == thinking, cuts
        assert "".join(delta.get("content", "") for delta in deltas) == content, cuts
        assert len(parser.calls) == n_calls


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A random model whose template opens the thinking, unless it is told not to."""
    template = (
        "{% for message in messages %}{{ message.content }}\n{% endfor %}{{ reasoning_effort }}"
        "{% if enable_thinking is not defined or enable_thinking %}<think>\n"
        "{% else %}<think></think>{% endif %}"
    )
    folder = tmp_path_factory.mktemp("thinker")
    source = write_tiny_model(
        folder / "f32.gguf", n_embd=64, n_head=2, n_ff=128, seed=3, words=WORDS, chat_template=template
    )
    quantize(source, folder / "model.gguf", "Q8_0")
    with Engine(folder / "model.gguf", settings=Settings(threads=1)) as engine:
        yield engine


SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
MESSAGES = [{"role": "user", "content": "yes"}]


def test_a_template_that_is_told_not_to_think_gives_an_answer(thinker: Engine) -> None:
    asked = ChatCompletionRequest(MESSAGES, max_tokens=10, seed=1)
    message = complete(thinker, asked)["choices"][0]["message"]
    assert message["reasoning_content"]
    assert not message["content"]
    asked = ChatCompletionRequest(
        MESSAGES, max_tokens=10, seed=1, chat_template_kwargs={"enable_thinking": False}
    )
    message = complete(thinker, asked)["choices"][0]["message"]
    assert message["content"]
    assert "reasoning_content" not in message
    with pytest.raises(SettingsError, match="messages"):
        complete(thinker, ChatCompletionRequest(MESSAGES, chat_template_kwargs={"messages": []}))


@pytest.mark.parametrize("is_open", [True, False])
def test_a_grammar_begins_behind_the_thinking(thinker: Engine, is_open: bool) -> None:
    vocabulary = thinker.model.vocabulary
    thinking = Thinking("<think>", "</think>", is_open=is_open)
    asked = ChatCompletionRequest(
        MESSAGES, response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    )
    grammar = answer_grammar(asked, [], notation_of(""), thinking, vocabulary).grammar
    # the random model never closes its thinking: a bias makes it
    for seed in range(3):
        bias = dict.fromkeys(vocabulary.tokenize("</think>").tolist(), 30.0)
        sampling = Sampling(seed=seed, temperature=1.0, grammar=grammar, logit_bias=bias, repeat_penalty=1.5)
        answer = thinker.stream("x", sampling=sampling, max_tokens=200).run()
        *_, text = answer.text.rpartition("</think>")
        if answer.finish_reason == "stop":
            assert set(json.loads(text)) == {"ok"}


def test_a_forced_format_answers_without_thinking_where_the_template_closes_it(thinker: Engine) -> None:
    asked = ChatCompletionRequest(
        MESSAGES,
        max_tokens=100,
        seed=2,
        chat_template_kwargs={"enable_thinking": False},
        response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        logit_bias=dict.fromkeys(thinker.tokenize("{"), 30.0),
    )
    message = complete(thinker, asked)["choices"][0]["message"]
    assert set(json.loads(message["content"])) == {"ok"}


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_budget_ends_the_thinking_on_every_schedule(
    thinker: Engine, is_open: bool, temperature: float
) -> None:
    """After as many tokens as the budget the ending comes, with and without drafts, and not twice."""
    thinking, ending = Thinking("<think>", "</think>", is_open=is_open), "\n</think>\n\n"
    n_ending = len(thinker.model.vocabulary.tokenize(ending))
    with Engine(thinker.model.path, settings=Settings(schedule="plain", threads=1)) as plain:
        for budget in (0, 1, 7):
            sampling = Sampling(seed=budget, temperature=temperature)
            answer, expected = (
                engine.stream(
                    "x", sampling=sampling, thinking=thinking, thinking_budget=budget, max_tokens=40
                ).run()
                for engine in (thinker, plain)
            )
            assert answer.ids == expected.ids
            forced = b"".join(
                thinker.model.vocabulary.piece(token) for token in answer.ids[budget : budget + n_ending]
            )
            assert (forced.decode(errors="replace") == ending) == is_open


def test_a_budget_counts_only_where_the_model_thinks(thinker: Engine) -> None:
    vocabulary = thinker.model.vocabulary
    thinking = Thinking("<think>", "</think>")
    inner = Sampler(Sampling(seed=1))
    sampler = BudgetedSampler(inner, vocabulary, 1, 20, thinking)
    for text, is_due in (
        ("<think>" + 60 * "so ", True),
        ("\n<think>" + 60 * "so ", True),
        ("<think>so</think>" + 60 * "so ", False),
        (60 * "so ", False),
    ):
        history = [0, *vocabulary.tokenize(text).tolist()[:20]]
        assert bool(sampler.forced(history)) == is_due, text
        assert bool(sampler.forced(history[:-1], history[-1:])) == is_due
        assert not sampler.forced(history[:-1])
    due = sampler.forced([0, *vocabulary.tokenize("<think>" + 60 * "so ").tolist()[:20]])
    assert vocabulary.tokenize("\n</think>\n\n", parse_special=True).tolist() == due


@pytest.mark.parametrize("is_open", [True, False])
def test_stop_strings_count_behind_the_thinking(thinker: Engine, is_open: bool) -> None:
    vocabulary = thinker.model.vocabulary
    opening = "" if is_open else "<think>"
    for text, expected in (
        (f"{opening}A STOP, no.</think>Yes. STOP!", f"{opening}A STOP, no.</think>Yes. "),
        (f"{opening}A STOP", f"{opening}A STOP"),
        (f"{opening}</think>STOP", f"{opening}</think>"),
        ("</think>STOP", "</think>"),
        *(() if is_open else (("<thin STOP", "<thin "), ("STOP<think>", ""))),
    ):
        stream = TextStream(vocabulary, ["STOP"], thinking=Thinking("<think>", "</think>", is_open=is_open))
        tokens = vocabulary.tokenize(text).tolist()
        parts = []
        for token in tokens:
            parts.append(stream.feed(token))
            if stream.stop_string:
                break
        assert ("".join(parts) + stream.finish()).lstrip() == expected
        assert stream.stop_string == ("STOP" if text != expected else "")


@pytest.mark.parametrize(
    ("template", "end", "closed"),
    [
        ("{{ enable_thinking }}<think></think>", "", ""),
        ("{% if thinking %}<think></think>", "", ""),
        ("{{ message.thinking }}<think></think>", "<think>\n", "\n</think>\n\n"),
        ("<think></think>", "", "<think>\n</think>\n\n"),
        ("no tags", "", ""),
    ],
)
def test_thinking_is_closed_where_the_template_cannot_do_without(
    template: str, end: str, closed: str
) -> None:
    assert closed_thinking(template, end) == closed


def test_a_chat_with_a_grammar_thinks_first(thinker: Engine) -> None:
    grammar = schema_grammar(SCHEMA)
    answer = thinker.chat(
        MESSAGES, sampling=Sampling(seed=1, grammar=grammar), max_tokens=200, thinking_budget=5
    ).run()
    thought, text = split_thinking(answer.thinking, answer.text)
    assert thought
    assert set(json.loads(text)) == {"ok"}


def test_the_settings_decide_unless_a_request_does(thinker: Engine) -> None:
    with Engine(thinker.model.path, settings=Settings(threads=1, think=False, thinking_budget=3)) as engine:
        assert engine.render(MESSAGES) == thinker.render(
            MESSAGES, template_arguments={"enable_thinking": False}
        )
        asked = ChatCompletionRequest(
            MESSAGES, max_tokens=30, seed=1, chat_template_kwargs={"enable_thinking": True}
        )
        message = complete(engine, asked)["choices"][0]["message"]
        assert 0 < len(engine.tokenize(message["reasoning_content"])) <= 5
        assert message["content"]
    with pytest.raises(SettingsError, match="thinking-budget"):
        Settings(thinking_budget=-1)
