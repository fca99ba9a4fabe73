"""llama.cpp's own endpoints: /completion, /props, /slots, /apply-template."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from pass_edge import Engine
from tests.support.chat_requests import GO, MESSAGES
from tests.support.http_requests import A, get, post
from tests.support.serving import Running

SAME = {"prompt": "the yes", "seed": 1, "n_predict": 8, "logit_bias": [[2, False]]}


def complete(server: Running, **body: Any) -> Any:
    status, content, _ = post(server, "/completion", {**SAME, **body})
    assert status == 200, content
    return content


def test_its_text_is_that_of_completions(server: Running, engine: Engine) -> None:
    own = complete(server)
    expected = post(server, "/v1/completions", SAME)[1]
    assert own["content"] == expected["choices"][0]["text"]
    assert own["tokens"] == []
    assert (own["tokens_predicted"], own["tokens_evaluated"]) == (8, expected["usage"]["prompt_tokens"])
    assert own["timings"]["predicted_n"] == 8
    assert own["prompt"] == "<s>the yes"
    tokens = complete(server, return_tokens=True)["tokens"]
    assert post(server, "/detokenize", {"tokens": tokens})[1]["content"] == own["content"]


def test_without_a_limit_the_context_is_filled(server: Running) -> None:
    answer = complete(server, prompt=[A] * 4080, n_predict=None)
    assert (answer["tokens_predicted"], answer["truncated"], answer["stop_type"]) == (16, True, "limit")


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        ({}, "limit", ""),
        ({"logit_bias": [[2, 100]]}, "eos", ""),
        ({"logit_bias": [["a", 100]], "stop": ["x", "aaa"]}, "word", "aaa"),
        ({"logit_bias": [["a", 100]], "stop_token_ids": [A]}, "eos", ""),
    ],
)
def test_it_says_what_ended_the_text(server: Running, body: dict[str, Any], kind: str, word: str) -> None:
    answer = complete(server, **body)
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, kind, word)
    assert answer["truncated"] is False


def test_its_stream_has_texts_tokens_and_a_last_event(server: Running) -> None:
    whole = complete(server, return_tokens=True, n_probs=3)
    client = openai.OpenAI(base_url=server.url, api_key="any")
    body = {**SAME, "stream": True, "n_probs": 3}
    lines = [line for line in client.post("/completion", body=body, cast_to=str).splitlines() if line]
    *events, last = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [each["stop"] for each in events] == [False] * len(events)
    assert last["stop"] is True
    assert "".join(each["content"] for each in events) == whole["content"]
    assert [token for each in events for token in each["tokens"]] == whole["tokens"]
    sent = [each for event in (*events, last) for each in event["completion_probabilities"]]
    assert sent == whole["completion_probabilities"]
    assert last["timings"]["predicted_n"] == 8


def test_probabilities_are_of_each_token(server: Running) -> None:
    answer = complete(server, n_probs=4, return_tokens=True)
    assert [each["id"] for each in answer["completion_probabilities"]] == answer["tokens"]
    for each in answer["completion_probabilities"]:
        assert len(each["top_logprobs"]) == 4
        assert bytes(each["bytes"]).decode(errors="replace") == each["token"]
    assert "completion_probabilities" not in complete(server, n_probs=0)


def test_several_texts_are_a_list(server: Running) -> None:
    many = complete(server, prompt=["the yes", [5, 6]], n_cmpl=2)
    assert [each["index"] for each in many] == [0, 1, 2, 3]
    assert many[0]["content"] == complete(server)["content"]
    assert [each["generation_settings"]["seed"] for each in many] == [1, 2, 1, 2]


def test_fields_can_be_chosen(server: Running) -> None:
    fields = ["content", "generation_settings/n_predict", "timings/cache_n", "nothing"]
    answer = complete(server, response_fields=fields)
    assert answer.keys() == {"content", "generation_settings/n_predict", "timings/cache_n"}
    assert answer["generation_settings/n_predict"] == 8


def test_settings_are_told_as_llama_cpp_tells_them(server: Running, engine: Engine) -> None:
    settings = complete(server, ignore_eos=True, logit_bias=[], temperature=0)["generation_settings"]
    assert settings["logit_bias"] == [{"token": 2, "bias": None}]
    assert (settings["temperature"], settings["n_predict"], settings["seed"]) == (0, 8, 1)
    drawn = complete(server, seed=-1)
    again = complete(server, seed=drawn["generation_settings"]["seed"])
    assert again["content"] == drawn["content"]


def test_properties_and_slots(server: Running, engine: Engine) -> None:
    properties = json.loads(get(server, "/props")[1])
    assert properties["default_generation_settings"]["n_ctx"] == engine.context_size
    assert properties["default_generation_settings"]["params"]["top_k"] == 40
    assert (properties["total_slots"], properties["bos_token"]) == (1, "<s>")
    assert properties["model_path"].endswith(".gguf")
    slots = json.loads(get(server, "/slots")[1])
    assert slots == [{"id": 0, "n_ctx": engine.context_size, "is_processing": False}]


def test_a_template_is_applied_without_generating(server: Running) -> None:
    def prompt(**body: Any) -> str:
        status, content, _ = post(server, "/apply-template", {"messages": MESSAGES, **body})
        assert status == 200
        return content["prompt"]

    assert prompt() == "user: yes theassistant: "
    assert prompt(tools=[GO]).startswith("Tools: ")
    assert prompt(tools=[GO], tool_choice="none") == prompt()
    assert post(server, "/apply-template", {"messages": []})[0] == 400
