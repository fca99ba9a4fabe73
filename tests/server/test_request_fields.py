"""Fields of requests as clients send them: null, hints, llama.cpp's and vLLM's, and how refusals read."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from pass_edge.server.request_schemas import ChatBody, CompletionBody
from tests.support.chat_requests import GO, MESSAGES
from tests.support.http_requests import A, post
from tests.support.serving import Running

CHAT, PROMPT = "/v1/chat/completions", "/v1/completions"
REQUIRED = {CHAT: {"messages": MESSAGES}, PROMPT: {"prompt": "the yes"}}


def ask(server: Running, path: str = PROMPT, **body: Any) -> Any:
    """The first choice of an answer that must be given."""
    status, content, _ = post(server, path, {**REQUIRED[path], "max_tokens": 5, "seed": 1, **body})
    assert status == 200, content
    return content["choices"][0]


def text(server: Running, **body: Any) -> str:
    return ask(server, **body)["text"]


def complaint(server: Running, path: str = PROMPT, **body: Any) -> tuple[str, str]:
    """The field and the message of a refusal."""
    status, content, _ = post(server, path, {**REQUIRED[path], **body})
    assert status == 400, content
    return content["error"]["param"], content["error"]["message"]


@pytest.mark.parametrize(("path", "body"), [(CHAT, ChatBody), (PROMPT, CompletionBody)])
def test_null_is_as_if_the_field_were_absent(server: Running, path: str, body: type) -> None:
    names = [name for name in body.__dataclass_fields__ if name not in REQUIRED[path]]
    _, expected, _ = post(server, path, {**REQUIRED[path], "seed": 1, "max_tokens": 5})
    for name in (*names, "store", "typical_p", "audio"):
        status, content, headers = post(
            server, path, {**REQUIRED[path], "seed": 1, "max_tokens": 5, name: None}
        )
        if name not in ("seed", "max_tokens"):
            assert (status, content["choices"]) == (200, expected["choices"]), name
        assert "X-Ignored-Fields" not in headers


def test_openais_client_may_send_none(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {
        "temperature": None,
        "stop": None,
        "tools": None,
        "stream_options": None,
        "n": None,
    }
    assert client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=2, **given).choices


@pytest.mark.parametrize("stream", [True, False])
def test_hints_are_accepted_and_listed(server: Running, stream: bool) -> None:
    hints = {
        "user": "me",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "x"},
        "cache_prompt": False,
        "id_slot": 0,
    }
    body = {"messages": MESSAGES, "max_tokens": 3, "modalities": ["text"], "stream": stream, **hints}
    connection = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    raw = connection.chat.completions.with_raw_response.create(
        model="any", extra_body=body, messages=MESSAGES
    )
    assert raw.headers["X-Ignored-Fields"] == ", ".join(sorted(hints))


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"max_token": 1}, "max_token", "did you mean max_tokens?"),
        ({"metdata": {}}, "metdata", "did you mean metadata?"),
        ({"qwertz": 1}, "qwertz", "there is no such field"),
        ({"audio": {"voice": "x"}}, "audio", "not supported"),
        ({"modalities": ["text", "audio"]}, "modalities", "['text']"),
        ({"typical_p": 0.5}, "typical_p", "or send 1"),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"stop": 5}, "stop", "a valid string, or a valid list"),
        ({"stop": ["x", 5]}, "stop.1", "a valid string"),
        ({"logit_bias": {"5": True}}, "logit_bias.5", "a valid number, or False"),
        ({"logit_bias": [[5]]}, "logit_bias.0.1", "required"),
        ({"logit_bias": 5}, "logit_bias", "a valid dictionary, or a valid list"),
        ({"logit_bias": {"99999": 1}}, None, "outside the vocabulary"),
        ({"stop_token_ids": [99999]}, None, "outside the vocabulary"),
        ({"max_tokens": 0}, "max_tokens", "1 or more, or -1"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "not permitted"),
        ({"json_schema": {"type": "hiccup"}}, None, "schema"),
        ({"response_format": {"type": "json_object", "schema": 123}}, None, "schema"),
        ({"guided_regex": "("}, None, "grammar"),
        ({"structured_outputs": {"structural_tag": {}}}, None, "json, json_object, regex"),
        ({"json_schema": {}, "guided_choice": ["a"]}, None, "exclude each other"),
        ({"grammar": 'root ::= "a"', "ignore_eos": True}, None, "ignore_eos"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, PROMPT])
def test_refusals_tell_the_fault(server: Running, path: str, body: Any, field: str | None, said: str) -> None:
    name, message = complaint(server, path, **body)
    assert name == field
    assert said in message
    assert message.startswith(field or "")


@pytest.mark.parametrize(
    ("prompt", "field", "said"),
    [
        ([], "prompt", "at least 1"),
        ([[]], "prompt.0", "at least 1"),
        (["x"] * 17, "prompt", "at most 16 prompts"),
        ([[1]] * 17, "prompt", "at most 16 prompts"),
        ([1, None], "prompt.1", "a valid integer, or a valid string"),
        ([1, [2]], None, "not both"),
        ([[1, [2]]], "prompt.0.1", "a valid integer, or a valid string"),
        (None, "prompt", "required"),
    ],
)
def test_wrong_prompts_are_told(server: Running, prompt: Any, field: str | None, said: str) -> None:
    name, message = complaint(server, prompt=prompt)
    assert name == field
    assert said in message


@pytest.mark.parametrize("missing", [None, 5, ..., ["x"]])
def test_a_part_without_text_is_no_text(server: Running, missing: Any) -> None:
    part = {"type": "text"} if missing is ... else {"type": "text", "text": missing}
    for parts in ([part], [{"type": "text", "text": "x"}, part]):
        assert "text" in complaint(server, CHAT, messages=[{"role": "user", "content": parts}])[1]


def test_none_does_not_get_into_the_prompt(server: Running) -> None:
    message = {**MESSAGES[0], "name": None, "refusal": None, "tool_calls": None, "audio": None}
    bare = post(server, CHAT, {"messages": MESSAGES, "max_tokens": 1})[1]["usage"]["prompt_tokens"]
    said = post(server, CHAT, {"messages": [message], "max_tokens": 1})[1]["usage"]["prompt_tokens"]
    assert said == bare


def test_a_length_has_three_names_and_minus_one_is_all(server: Running) -> None:
    never = {"logit_bias": {"2": False}}
    for path, name in (
        (CHAT, "max_completion_tokens"),
        (PROMPT, "max_completion_tokens"),
        (PROMPT, "n_predict"),
    ):
        body = {**REQUIRED[path], **never, name: 7}
        assert post(server, path, body)[1]["usage"]["completion_tokens"] == 7
    for name in ("max_tokens", "n_predict", "max_completion_tokens"):
        _, content, _ = post(server, PROMPT, {"prompt": [A] * 4000, **never, name: -1})
        assert content["usage"]["total_tokens"] == 4096
        assert content["choices"][0]["finish_reason"] == "length"


def test_biases_have_the_forms_of_llama_cpp(server: Running) -> None:
    expected = text(server, logit_bias={str(A): 100})
    assert expected == "aaaaa"
    for bias in ([[A, 100]], [["a", 100]], {"a": 100}, [[A, 50], [A, 50]], {str(A): 60, "a": 40}):
        assert text(server, logit_bias=bias) == expected
    for ban in ([[A, 100], [A, False]], {"a": False, str(A): 100}, [["a", False], [A, 100]]):
        assert "a" not in text(server, logit_bias=ban)
    one = [["1", 100]]  # in a list, a string is a text
    assert set(text(server, logit_bias=one)) == {"1"}


def test_an_end_can_be_ignored_or_added(server: Running) -> None:
    wants_end = {"logit_bias": {"2": 50}}
    assert ask(server, **wants_end)["finish_reason"] == "stop"
    assert ask(server, **wants_end, ignore_eos=True)["finish_reason"] == "length"
    wants_a = {"logit_bias": {str(A): 100}}
    choice = ask(server, **wants_a, stop_token_ids=[A])
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize("path", [CHAT, PROMPT])
@pytest.mark.parametrize(
    ("body", "allowed"),
    [
        ({"json_schema": {"enum": ["yes", "no"]}}, ('"yes"', '"no"')),
        ({"response_format": {"type": "json_object", "schema": {"const": 1}}}, ("1",)),
        ({"structured_outputs": {"choice": ["yes", 'n"o']}}, ("yes", 'n"o')),
        ({"structured_outputs": {"regex": r"a/b|[0-9]\/"}}, ("a/b", *(f"{i}/" for i in range(10)))),
        ({"structured_outputs": {"json": '{"const": true}'}}, ("true",)),
        ({"structured_outputs": {"grammar": 'root ::= "x"'}}, ("x",)),
        ({"structured_outputs": {"grammar": 'start: x\nx: "::="'}}, ("::=",)),
        ({"structured_outputs": {"grammar": '%llguidance {}\nstart: "x"'}}, ("x",)),
        ({"guided_choice": ["é"]}, ("é",)),
        ({"guided_regex": "[xy]{2}"}, ("xx", "xy", "yx", "yy")),
        ({"guided_json": {"const": "é"}}, ('"é"',)),
        ({"guided_grammar": 'root ::= "x"'}, ("x",)),
        ({"guided_grammar": '// Lark\n?start: "x" | WORD\nWORD: /y{2}/'}, ("x", "yy")),
    ],
)
def test_a_form_can_be_asked_for_in_many_ways(
    server: Running, path: str, body: Any, allowed: tuple[str, ...]
) -> None:
    choice = ask(server, path, **body, max_tokens=40)
    assert choice.get("text", choice.get("message", {}).get("content")) in allowed


def test_n_probs_asks_for_logprobs(server: Running) -> None:
    assert len(ask(server, n_probs=3)["logprobs"]["top_logprobs"][0]) in (3, 4)
    assert len(ask(server, CHAT, n_probs=3)["logprobs"]["content"][0]["top_logprobs"]) == 3
    assert ask(server, n_probs=0)["logprobs"] is None


def test_timings_come_when_asked_for(server: Running) -> None:
    body = {"prompt": "the yes no", "max_tokens": 5, "logit_bias": {"2": False}}
    assert "timings" not in post(server, PROMPT, body)[1]
    answer = post(server, PROMPT, {**body, "timings_per_token": True})[1]
    timings, usage = answer["timings"], answer["usage"]
    assert timings["predicted_n"] == 5
    assert timings["predicted_per_second"] == pytest.approx(5000 / timings["predicted_ms"])
    assert timings["prompt_n"] + timings["cache_n"] == usage["prompt_tokens"]
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    extra = {"timings_per_token": True}
    chunks = list(client.completions.create(model="any", stream=True, extra_body=extra, **body))
    assert [chunk.timings["predicted_n"] for chunk in chunks][-1] == 5


def test_each_of_llama_cpps_choices_has_its_own_timings(server: Running) -> None:
    body = {"prompt": "the yes no", "max_tokens": 5, "timings_per_token": True, "logit_bias": {"2": False}}
    for several in ({"n": 2}, {"prompt": ["the yes no", "yes"]}):
        choices = post(server, "/completion", {**body, **several})[1]
        assert [choice["timings"]["predicted_n"] for choice in choices] == [5, 5]


def test_values_at_which_a_filter_is_off_change_nothing(server: Running) -> None:
    off = {
        "typical_p": 1.0,
        "tfs_z": 1,
        "mirostat": 0,
        "dry_multiplier": 0.0,
        "xtc_probability": 0,
        "min_keep": 0,
    }
    off |= {
        "dry_base": 1.75,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "skip_special_tokens": True,
        "best_of": 1,
    }
    assert text(server, **off) == text(server)
    assert text(server, top_k=-1, top_p=1, min_p=0) == text(server, top_k=0, top_p=1, min_p=0)


def test_a_prompt_may_mix_token_ids_and_texts(server: Running) -> None:
    ids = post(server, "/tokenize", {"content": "the yes", "add_special": True})[1]["tokens"]
    more = post(server, "/tokenize", {"content": "no"})[1]["tokens"]
    expected = text(server, prompt=[*ids, *more, A], temperature=0)
    assert text(server, prompt=["the yes", "no", A], temperature=0) == expected
    assert text(server, prompt=[[*ids, "no", A]], temperature=0) == expected
    body = {"prompt": [[*ids, "no", A], "the yes", ids], "temperature": 0, "max_tokens": 5}
    choices = post(server, PROMPT, body)[1]["choices"]
    assert choices[0]["text"] == expected
    assert choices[1]["text"] == choices[2]["text"] == text(server, temperature=0)


def test_tools_with_nulls_are_read(server: Running) -> None:
    function = {**GO["function"], "description": None, "strict": None}
    tools = [{"type": "function", "function": function}]
    choice = ask(server, CHAT, tools=tools, tool_choice="required", max_tokens=60)
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
