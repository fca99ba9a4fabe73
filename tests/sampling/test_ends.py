"""What ends a text, and which samplers are on: as asked, and the same with and without drafts."""

from __future__ import annotations

from typing import Any

import pytest

from pass_edge import Engine, SettingsError
from pass_edge.line_limit import LineLimit
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest, LlamaCppRequest
from pass_edge.openai.samplers import SAMPLERS, active_samplers

END = 2
OFTEN = {"logit_bias": {END: 6.0}}  # the end comes soon
WITHOUT_END = {"logit_bias": {END: False}}


def answer(engine: Engine, seed: int = 1, **body: Any) -> Any:
    asked = {"prompt": "Say yes, yes", "max_tokens": 48, "logprobs": 0, "temperature": 1.0, "seed": seed}
    return complete(engine, CompletionRequest(**asked | body))


def choices(engine: Engine, seed: int = 1, **body: Any) -> Any:
    return answer(engine, seed, **body)["choices"][0]


@pytest.mark.parametrize(
    "body",
    [
        {**OFTEN, "min_tokens": 20},
        {**WITHOUT_END, "min_tokens": 20, "stop": ["e", "a"], "include_stop_str_in_output": True},
        {**OFTEN, "min_tokens": 20, "stop_token_ids": [*range(40, 100)]},
        {**WITHOUT_END, "samplers": ["top_k", "temperature"], "temperature": 0.7},
        {**WITHOUT_END, "samplers": "e", "repeat_penalty": 1.5, "temperature": 0.0},
        {**WITHOUT_END, "samplers": []},
        {**OFTEN, "skip_special_tokens": False},
        {**WITHOUT_END, "n_indent": 2, "temperature": 2.0},
        {**WITHOUT_END, "temperature": 1e-310},
    ],
    ids=lambda body: "-".join(body),
)
def test_fields_give_the_same_text_on_every_schedule(
    body: dict[str, Any], drafting: Engine, plain: Engine
) -> None:
    for seed in range(4):
        assert choices(drafting, seed, **body) == choices(plain, seed, **body)


def test_nothing_ends_a_text_before_min_tokens(plain: Engine) -> None:
    def count(**body: Any) -> list[int]:
        return [answer(plain, seed, **body)["usage"]["completion_tokens"] for seed in range(6)]

    assert min(count(**OFTEN)) < 20
    for ends in ({}, {"stop": ["e", "a", "\n"]}, {"stop_token_ids": [*range(3, 200)]}):
        got = count(**OFTEN, min_tokens=20, **ends)
        assert min(got) == 20 < max(count(**WITHOUT_END))


def test_a_stop_string_does_not_begin_before_min_tokens(plain: Engine) -> None:
    a = plain.tokenize("a")[-1]
    body = {"logit_bias": {a: 1000.0}, "stop": ["aaa"], "min_tokens": 4}
    assert choices(plain, **body)["text"] == "aaaa"
    assert choices(plain, **body, include_stop_str_in_output=True)["text"] == "aaaaaaa"
    assert choices(plain, **{**body, "min_tokens": 0})["text"] == ""


@pytest.mark.parametrize(
    "body",
    [
        {"min_tokens": 20, "max_tokens": 19},
        {"min_tokens": 5000, "max_tokens": None},
        {"min_tokens": 5, "grammar": 'root ::= "a"'},
        {"min_tokens": 5, "response_format": {"type": "json_object"}},
    ],
)
def test_min_tokens_that_cannot_be_are_refused(body: dict[str, Any], plain: Engine) -> None:
    with pytest.raises(SettingsError, match="min-tokens"):
        choices(plain, **body)


def test_the_text_may_include_the_stop_string(plain: Engine) -> None:
    whole = choices(plain, **WITHOUT_END)["text"]
    stop = [whole[9:12], whole[20:22]]
    for stream in (False, True):
        request = CompletionRequest(
            "Say yes, yes", max_tokens=48, temperature=1.0, seed=1, stop=stop, stream=stream,
            include_stop_str_in_output=True, **WITHOUT_END,
        )  # fmt: skip
        answer = complete(plain, request)
        chunks = [*answer] if stream else [answer]
        end = whole.index(stop[0]) + 3
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole[:end]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_control_tokens_may_be_text(plain: Engine) -> None:
    begins = {"logit_bias": {1: 1000.0}, "max_tokens": 2}  # <s>
    assert choices(plain, **begins)["text"] == ""
    assert choices(plain, **begins, skip_special_tokens=False)["text"] == "<s><s>"


def test_samplers_that_are_left_out_are_off(plain: Engine) -> None:
    told = {"temperature": 0.3, "top_k": 5, "top_p": 0.5, "min_p": 0.2, "repeat_penalty": 1.5}
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
    parameter = dict(zip(SAMPLERS, ("repeat_penalty", "top_k", "top_p", "min_p", "temperature"), strict=True))
    assert choices(plain, **told, samplers=SAMPLERS) == choices(plain, **told)
    for name in SAMPLERS:
        others = [each for each in SAMPLERS if each != name]
        got = choices(plain, **told, samplers=others)
        assert got == choices(plain, **told | {parameter[name]: off[parameter[name]]}), name
    assert choices(plain, **told, samplers=[]) == choices(plain, **off)


def test_lists_of_samplers_are_names_or_letters() -> None:
    assert active_samplers("edskypmxt") == active_samplers(None) == SAMPLERS
    assert active_samplers(["dry", "top_k", "typ_p", "top_p", "xtc", "infill"]) == ("top_k", "top_p")
    for wrong in (["temperature", "top_k"], ["top_k", "top_k"], "tk", "ez", ["dance"], "top_k"):
        with pytest.raises(SettingsError, match=r"in the order penalties|unknown sampler"):
            active_samplers(wrong)


def test_0_tokens_read_the_prompt_only(plain: Engine) -> None:
    for stream in (False, True):
        answer = complete(plain, LlamaCppRequest(prompt="the the yes", max_tokens=0, stream=stream))
        last = [*answer][-1] if stream else answer
        assert (last["content"], last["tokens_predicted"], last["stop_type"]) == ("", 0, "limit")
        assert last["generation_settings"]["n_predict"] == 0
    after = plain.stream("the the yes", max_tokens=1).run()
    assert after.stats.reused_tokens == after.stats.prompt_tokens - 1
    assert plain.stream("the", max_tokens=0).run().finish_reason == "length"


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("a\n  b\n c\n  d", LineLimit(2), "a\n  b\n "),
        ("a\n\tb\n\n\tc", LineLimit(1), "a\n\tb\n"),
        ("    a\n  b", LineLimit(0), "    a\n  b"),
        ("a\n    ", LineLimit(9), "a\n    "),
        ("a b", LineLimit(9), "a b"),
        ("a\n  b\n  c", LineLimit(seconds=5), "a\n  b\n  c"),
        ("a\n  b\n  c", LineLimit(seconds=0.5), "a\n"),
    ],
)
def test_lines_end_code(text: str, limit: LineLimit, expected: str) -> None:
    by_letter = LineLimit(limit.min_indent, limit.seconds)
    assert limit.cut(text, 1.0) + limit.cut("more" * limit.is_reached, 1.0) == expected
    assert "".join(by_letter.cut(letter, 1.0) for letter in text) == expected
    assert limit.is_reached == by_letter.is_reached == (text != expected)


def test_code_ends_at_a_line_that_is_indented_less(plain: Engine) -> None:
    newline = plain.tokenize("\n")[-1]
    body = {"logit_bias": {newline: 9.0, END: False}, "max_tokens": 200}
    whole, cut = (choices(plain, **body, n_indent=n)["text"] for n in (0, 1))
    lines = whole.split("\n")
    assert cut == lines[0] + "\n" != whole
    in_time, late = (choices(plain, **body, t_max_predict_ms=ms) for ms in (10**7, 1))
    assert in_time["text"] == whole
    assert late["text"].endswith("\n")
    assert whole.startswith(late["text"])
    assert late["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_may_echo_what_it_continues(stream: bool, plain: Engine) -> None:
    messages = [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "the no"}]

    def content(messages: list[dict[str, str]], **body: Any) -> str:
        answer = complete(plain, ChatCompletionRequest(messages, max_tokens=8, seed=2, stream=stream, **body))
        key = "delta" if stream else "message"
        return "".join(
            each["choices"][0][key].get("content", "") for each in ([*answer] if stream else [answer])
        )

    assert content(messages, echo=True) == "the no" + content(messages)
    assert content(messages[:1], echo=True) == content(messages[:1])


def test_the_coldest_temperature_is_greedy(plain: Engine) -> None:
    unfiltered = {**WITHOUT_END, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    greedy = choices(plain, **unfiltered, temperature=0.0)
    for temperature in (5e-324, 1e-310, 1e-12):
        assert choices(plain, **unfiltered, temperature=temperature) == greedy
