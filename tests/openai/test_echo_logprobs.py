"""``echo`` with ``logprobs``: how likely a given text is, as evaluation harnesses ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from pass_edge import Engine, Settings
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import CompletionRequest
from pass_edge.sampling.logprobs import logprob_of
from tests.support.http_requests import post
from tests.support.serving import serving

TEXT = "the yes, é no."


def scored(engine: Engine, prompt: Any = TEXT, **options: Any) -> Any:
    asked = {"echo": True, "logprobs": 2, "max_tokens": 4, "seed": 3, **options}
    return complete(engine, CompletionRequest(prompt, **asked))


def test_each_token_has_the_models_own_logprob(engine: Engine) -> None:
    choice = scored(engine)["choices"][0]
    ids, logprobs = engine.tokenize(TEXT), choice["logprobs"]
    alone = complete(engine, CompletionRequest(TEXT, logprobs=2, max_tokens=4, seed=3))["choices"][0]
    assert choice["text"] == TEXT + alone["text"]
    for name, expected in alone["logprobs"].items():
        assert logprobs[name][len(ids) :] == expected
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    for i in range(1, len(ids)):
        expected = logprob_of(ids[i], engine.logits_after(ids[:i]), 2)
        assert logprobs["token_logprobs"][i] == expected.logprob
        top = logprobs["top_logprobs"][i]
        assert {logprob for _, logprob in expected.top} <= set(top.values())
        assert expected.logprob in top.values()


@pytest.mark.parametrize("special", ["", "<s>"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_offsets_are_those_of_the_text(special: str, as_ids: bool, engine: Engine) -> None:
    text = f"{special}the yes</s> no"
    choice = scored(engine, engine.tokenize(text) if as_ids else text, max_tokens=0)["choices"][0]
    assert choice["text"].replace("\u2581", " ") == ("<s>" * as_ids or special) + "the yes</s> no"
    first, *rest = zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True)
    assert first == ("<s>", 0)
    assert "</s>" in dict(rest)
    for label, offset in rest:
        assert choice["text"].startswith(label, offset)


def test_streams_hold_the_same(engine: Engine) -> None:
    for options in ({}, {"n": 2}, {"max_tokens": 0}, {"prompt": ["a b", "the"]}):
        expected = scored(engine, **options)["choices"]
        chunks = [chunk["choices"][0] for chunk in scored(engine, stream=True, **options)]
        for choice in expected:
            mine = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
            assert "".join(chunk["text"] for chunk in mine) == choice["text"]
            for name, values in choice["logprobs"].items():
                assert [v for chunk in mine for v in (chunk["logprobs"] or {}).get(name, ())] == values


def test_0_tokens_only_score(engine: Engine) -> None:
    answer = scored(engine, max_tokens=0)
    assert answer["choices"][0]["text"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == len(engine.tokenize(TEXT))


def test_one_token_has_no_logprob(engine: Engine) -> None:
    choice = scored(engine, [5], max_tokens=0)["choices"][0]
    assert choice["logprobs"] is None or choice["logprobs"]["token_logprobs"] == [None]


def test_scores_do_not_depend_on_what_is_cached_or_drafted(speaking_path: Path, engine: Engine) -> None:
    expected = scored(engine)["choices"]
    engine.stream(TEXT + " yes yes", max_tokens=9).run()
    assert scored(engine)["choices"] == expected
    with Engine(speaking_path, settings=Settings(threads=1, schedule="plain", context_size=64)) as plain:
        assert scored(plain)["choices"] == expected


def test_llama_cpp_python_finds_the_same(speaking_path: Path, engine: Engine) -> None:
    theirs = llama_cpp.Llama(str(speaking_path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    expected = theirs("the yes no", echo=True, logprobs=2, max_tokens=1, temperature=0)["choices"][0]
    theirs.close()
    got = scored(engine, "the yes no", max_tokens=1, temperature=0)["choices"][0]
    ours, others = (
        [value for value in choice["logprobs"]["token_logprobs"] if value is not None]
        for choice in (got, expected)
    )
    assert np.allclose(ours[1:], others, atol=0.1)  # they have none of BOS; attention has another precision


def test_what_lm_eval_sends(engine: Engine) -> None:
    ids = engine.tokenize(TEXT)
    body = {"model": "x", "prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234}
    with serving(engine) as server:
        status, content, _ = post(server, "/v1/completions", {**body, "echo": True})
        assert status == 200
        logprobs = content["choices"][0]["logprobs"]
        start = len(ids) - 3
        assert sum(logprobs["token_logprobs"][start:-1]) < 0
        for label, top in zip(logprobs["tokens"][start:-1], logprobs["top_logprobs"][start:-1], strict=True):
            assert label in top
        assert post(server, "/v1/completions", {**body, "echo": True, "max_tokens": 0})[0] == 200
        assert post(server, "/v1/completions", {**body, "max_tokens": 0})[1]["error"]["param"] == "max_tokens"
