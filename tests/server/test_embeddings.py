"""/v1/embeddings, as OpenAI's client uses it; models that write text refuse it, and the other way round."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from pass_edge.native.embedder import Embedder
from tests.support.http_requests import get, post
from tests.support.serve_command import started
from tests.support.serving import Running, serving
from tests.support.tiny_bert import write_tiny_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture(scope="module")
def embedder(bert: Path) -> Iterator[Embedder]:
    with Embedder(bert, threads=1) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def embeds(embedder: Embedder) -> Iterator[Running]:
    with serving(embedder, name="bert") as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture(scope="module")
def ask(embeds: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{embeds.url}/v1", api_key="any", max_retries=0)


TOKENS = [2, 5, 8, 3]  # "the river"


@pytest.mark.parametrize(
    ("given", "n"),
    [("the river", 1), (TOKENS, 1), (["the river", "yes"], 2), ([TOKENS, [2, 6, 3]], 2), (["yes"] * 40, 40)],
)
@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_each_text_has_a_vector_of_length_one(
    ask: openai.OpenAI, embedder: Embedder, given: Any, n: int, form: dict[str, str]
) -> None:
    result = ask.embeddings.create(model="any", input=given, **form)
    assert [each.index for each in result.data] == list(range(n))
    vectors = [each.embedding for each in result.data]
    if form == {"encoding_format": "base64"}:
        vectors = [np.frombuffer(base64.b64decode(each), "<f4") for each in vectors]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    (own,) = embedder.embed([TOKENS])
    expected = own[0] / np.linalg.norm(own[0])
    assert np.allclose(vectors[0], expected, atol=1e-5) == (given != ["yes"] * 40)
    assert result.model == "bert"
    tokens = {1: 4, 2: 7, 40: 120}[n]
    assert result.usage.prompt_tokens == result.usage.total_tokens == tokens


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [99]}, "vocabulary"),
        ({"input": "yes " * 40}, "32 at most"),
        ({"input": "yes", "dimensions": 8}, "leave dimensions out"),
        ({"input": "yes", "encoding_format": "hex"}, "float or base64"),
        ({"input": "yes", "dance": 1}, "dance"),
    ],
)
def test_wrong_requests_are_the_clients_errors(embeds: Running, body: dict[str, Any], words: str) -> None:
    status, answer, _ = post(embeds, "/v1/embeddings", body)
    assert status == 400
    assert words in answer["error"]["message"]


def test_the_models_own_dimensions_are_accepted(ask: openai.OpenAI) -> None:
    assert len(ask.embeddings.create(model="any", input="yes", dimensions=64).data[0].embedding) == 64


def test_a_model_refuses_what_another_kind_does(embeds: Running, server: Running) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/responses", {"input": "x"}),
    ):
        status, answer, _ = post(embeds, path, body)
        assert (status, "embedding model" in answer["error"]["message"]) == (400, True)
    status, answer, _ = post(server, "/v1/embeddings", {"input": "x"})
    assert (status, "serve an embedding model" in answer["error"]["message"]) == (400, True)


def test_the_rest_of_the_server_is_there(embeds: Running) -> None:
    paths = set(json.loads(get(embeds, "/openapi.json")[1])["paths"])
    assert paths == {"/v1/embeddings", "/v1/models", "/v1/models/{model}", "/metrics", "/health", "/slots"}
    assert json.loads(get(embeds, "/v1/models/bert")[1])["context_size"] == 32
    before = tokens_counted(embeds)
    assert post(embeds, "/v1/embeddings", {"input": "the river"})[0] == 200
    assert tokens_counted(embeds) == before + 4
    assert json.loads(get(embeds, "/health")[1])["slots_idle"] == 1


def tokens_counted(server: Running) -> float:
    lines = get(server, "/metrics")[1].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("pass_edge_prompt_tokens_total "))


def test_serve_serves_an_embedding_model(bert: Path) -> None:
    with started(bert) as (_, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        assert len(client.embeddings.create(model="any", input=["the", "yes"]).data) == 2
