"""llama.cpp's POST /infill, which editors use."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Settings
from pass_edge.openai.infill import infill_prompt
from tests.support.http_requests import post
from tests.support.reciting_model import write_reciting_model
from tests.support.serving import Running, serving

# each is followed by the next one, whatever came before
PIECES = [
    *("<fim_suffix>", "<fim_middle>", "return", " a", " +", " b", "\n", "end", "<fim_prefix>"),
    *("<|repo_name|>", "<|file_sep|>", "def f(a, b):"),
]
BODY = {"input_prefix": "def f(a, b):", "input_suffix": "end", "temperature": 0}
MIDDLE = "return a + b\nend"


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = write_reciting_model(tmp_path_factory.mktemp("filler") / "model.gguf", PIECES)
    with Engine(path, settings=Settings(threads=1, context_size=128)) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(filler: Engine) -> Iterator[Running]:
    with serving(filler) as running:
        yield running


def fill(server: Running, **body: Any) -> Any:
    status, content, _ = post(server, "/infill", BODY | body)
    assert status == 200, content
    return content


def test_it_answers_with_the_middle(server: Running) -> None:
    answer = fill(server)
    assert (answer["content"], answer["stop_type"]) == (MIDDLE, "eos")
    assert answer["prompt"] == "<fim_prefix>def f(a, b):<fim_suffix>end<fim_middle>"
    suffix = post(server, "/v1/completions", {"prompt": "def f(a, b):", "suffix": "end", "temperature": 0})[1]
    assert suffix["choices"][0]["text"] == MIDDLE


def test_the_prompt_stands_behind_the_prefix(server: Running) -> None:
    told = fill(server, prompt="return", n_predict=1)["prompt"]
    assert told == "<fim_prefix>def f(a, b):return<fim_suffix>end<fim_middle>"


def test_texts_of_the_project_come_first(server: Running) -> None:
    extra = [{"text": "a b", "filename": "a.py", "time": 3}, {"text": "return", "filename": None}]
    told = fill(server, input_extra=extra)["prompt"].replace("\u2581", " ")  # the model has no other space
    assert told == (
        "<|repo_name|>repository\n<|file_sep|>a.py\na b<|file_sep|>file\nreturn<|file_sep|>file\n"
        "<fim_prefix>def f(a, b):<fim_suffix>end<fim_middle>"
    )


def test_what_does_not_fit_is_left_out(server: Running) -> None:
    """The context holds 128 tokens, of which 64 may be the prompt here."""

    def told(**body: Any) -> str:
        answer = fill(server, n_predict=64, **body)
        assert answer["tokens_evaluated"] == 64
        assert answer["content"] == MIDDLE
        return answer["prompt"]

    long = "".join(f"{i:02}" for i in range(99))
    assert (
        told(input_prefix=long, input_suffix="end") == f"<fim_prefix>{long[-60:]}<fim_suffix>end<fim_middle>"
    )
    both = told(input_prefix=long, input_suffix=long)
    assert both == f"<fim_prefix>{long[-46:]}<fim_suffix>{long[:15]}<fim_middle>"
    assert told(input_prefix="", input_suffix=long) == f"<fim_prefix><fim_suffix>{long[:61]}<fim_middle>"
    context = told(input_extra=[{"text": long}])
    assert context.endswith(
        f"{long[-50:]}<|file_sep|>file\n<fim_prefix>def f(a, b):<fim_suffix>end<fim_middle>"
    )


def test_what_llama_vim_sends(server: Running) -> None:
    sent = {
        "id_slot": 0, "input_extra": [], "prompt": "", "n_predict": 16, "stop": [], "n_indent": 0,
        "top_k": 40,
        "top_p": 0.9, "samplers": ["top_k", "top_p", "infill"], "stream": False, "cache_prompt": True,
        "t_max_prompt_ms": 500, "t_max_predict_ms": 1000, "response_fields": ["content", "timings/prompt_n"],
    }  # fmt: skip
    answer = fill(server, **sent)
    assert answer.keys() == {"content", "timings/prompt_n"}
    assert answer["content"] == MIDDLE
    warmed = fill(server, n_predict=0, samplers=[], response_fields=[""], t_max_predict_ms=1)
    assert warmed == {}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"n_predict": 2}, "return a"),
        ({"stop": [" b"]}, "return a +"),
        ({"n_indent": 1}, "return a + b\n"),
    ],
)
def test_its_text_ends_as_asked_whole_and_streamed(
    limits: dict[str, Any], expected: str, server: Running
) -> None:
    assert fill(server, **limits)["content"] == expected
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/infill", json.dumps(BODY | limits | {"stream": True}))
    lines = [line for line in connection.getresponse().read().decode().splitlines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    connection.close()
    assert "".join(event["content"] for event in events) == expected
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input_prefix": None}, "input_prefix"),
        ({"input_suffix": 3}, "input_suffix"),
        ({"prompt": ["a"]}, "prompt"),
        ({"input_extra": {"text": "x"}}, "input_extra"),
        ({"input_extra": [{"filename": "x"}]}, "input_extra.0.text"),
        ({"input_extra": ["x"]}, "input_extra.0"),
        ({"samplers": ["dance"]}, None),
        ({"n_predict": -2}, "n_predict"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], field: str | None, server: Running) -> None:
    status, content, _ = post(server, "/infill", BODY | change)
    assert (status, content["error"]["param"]) == (400, field)


def test_a_model_without_these_tokens_says_so(engine: Engine) -> None:
    with serving(engine) as server:
        status, content, _ = post(server, "/infill", BODY)
    assert status == 400
    assert "fill-in-the-middle" in content["error"]["message"]


def test_a_model_without_a_token_for_files_gets_snippets(tmp_path: Path) -> None:
    path = write_reciting_model(tmp_path / "m.gguf", ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "x"])
    with Engine(path, settings=Settings(threads=1, schedule="plain", context_size=64)) as engine:
        vocabulary = engine.model.vocabulary
        ids = infill_prompt(vocabulary, "a", "b", [{"text": "x", "filename": "f"}])
        told = b"".join(vocabulary.piece(token, special=True) for token in ids).decode()
        told = told.replace("\u2581", " ")
    assert told == "\n\n--- snippet ---\n\nx<fim_prefix>a<fim_suffix>b<fim_middle>"
