"""`Llama(embedding=True)` has llama-cpp-python's vectors, in its shapes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from gguf import PoolingType
from langchain_community.embeddings import LlamaCppEmbeddings

from pass_edge import ContextFullError, Llama, Settings, SettingsError
from tests.support.tiny_bert import write_tiny_bert

TEXTS = ["the river", "yes", "no no no the rivers", *["the yes"] * 20, "yes no"]
OPTIONS = {"embedding": True, "n_ctx": 64, "n_threads": 1, "n_gpu_layers": 0, "verbose": False}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "m.gguf")


@pytest.fixture(scope="module")
def ours(path: Path) -> Iterator[Llama]:
    with Llama(path, **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def theirs(path: Path) -> Iterator[llama_cpp.Llama]:
    llm = llama_cpp.Llama(str(path), **OPTIONS)
    yield llm
    llm.close()


@pytest.mark.parametrize("given", ["the river", ["the river"], TEXTS])
@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"return_count": True}, {"truncate": False}])
def test_vectors_and_shapes_are_llama_cpp_pythons(
    given: Any, options: dict[str, bool], ours: Llama, theirs: llama_cpp.Llama
) -> None:
    got, expected = (llm.embed(given, **options) for llm in (ours, theirs))
    if options.get("return_count"):
        (got, got_count), (expected, expected_count) = got, expected
        assert got_count == expected_count > 0
    assert isinstance(got, list)
    assert np.shape(got) == np.shape(expected)
    assert isinstance(got[0] if isinstance(given, str) else got[0][0], float)
    assert np.allclose(got, expected, atol=5e-3)  # attention is computed in another precision
    length = np.linalg.norm(got, axis=-1)
    assert np.allclose(length, 1, atol=1e-5) == bool(options.get("normalize"))


@pytest.mark.parametrize("given", ["the river", TEXTS])
def test_the_result_object_is_llama_cpp_pythons(given: Any, ours: Llama, theirs: llama_cpp.Llama) -> None:
    for model in (None, "mine"):
        got, expected = (llm.create_embedding(given, model=model) for llm in (ours, theirs))
        vectors = [[each.pop("embedding") for each in result["data"]] for result in (got, expected)]
        assert got == expected
        assert np.allclose(*vectors, atol=5e-3)


def test_long_texts_are_cut_or_refused(path: Path) -> None:
    long = "the yes no river " * 20
    with Llama(path, **OPTIONS | {"n_batch": 8}) as llm:
        vector, count = llm.embed(long, return_count=True)
        assert (len(vector), count, llm.n_batch) == (64, 8, 8)
        assert vector == llm.embed(long + "yes")
        with pytest.raises(ContextFullError, match=r"tokens, and n_batch is 8"):
            llm.embed(["yes", long], truncate=False)


def test_what_an_embedding_model_has(ours: Llama, theirs: llama_cpp.Llama) -> None:
    for name in ("n_embd", "n_vocab", "token_bos", "token_eos", "pooling_type"):
        assert getattr(ours, name)() == getattr(theirs, name)(), name
    assert ours.tokenize(b"the river") == theirs.tokenize(b"the river")
    assert ours.detokenize([5, 6]) == theirs.detokenize([5, 6])
    assert ours.n_ctx() == 32  # as it was trained
    assert ours.metadata["general.architecture"] == "bert"
    with Llama(ours.model_path, **OPTIONS | {"n_ctx": 0}) as llm:
        assert llm.n_ctx() == 32
        with pytest.raises(SettingsError, match="dict"):
            llm.embed({"a": "dict"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        llm.embed("yes")


@pytest.mark.parametrize("ask", [
    lambda llm: llm("yes"), lambda llm: llm.create_chat_completion([{"role": "user", "content": "x"}]),
    lambda llm: llm.eval([5]), lambda llm: next(llm.generate([5])), lambda llm: llm.engine,
    lambda llm: llm.n_tokens, lambda llm: llm.save_state(), lambda llm: llm.reset(),
])  # fmt: skip
def test_it_writes_no_text_and_says_so(ask: Any, ours: Llama) -> None:
    with pytest.raises(SettingsError, match="writes no text"):
        ask(ours)


def test_what_makes_no_vectors_says_so(speaking_path: Path, path: Path) -> None:
    with pytest.raises(SettingsError, match=r"needs an embedding model, and speaking\.gguf writes text"):
        Llama(speaking_path, embedding=True)
    with Llama(speaking_path, settings=Settings(threads=1, schedule="plain")) as llm:
        assert llm.pooling_type() == 0
        for ask in (llm.embed, llm.create_embedding):
            with pytest.raises(SettingsError, match="embedding=True"):
                ask("yes")
    with Llama(path, **OPTIONS, pooling_type=int(PoolingType.MEAN)) as llm:
        assert llm.pooling_type() == 1
    with pytest.raises(SettingsError, match="pooling_type is 2"):
        Llama(path, **OPTIONS, pooling_type=int(PoolingType.CLS))


def test_langchains_embeddings(path: Path, monkeypatch: pytest.MonkeyPatch, ours: Llama) -> None:
    monkeypatch.setattr("llama_cpp.Llama", Llama)
    chain = LlamaCppEmbeddings(model_path=str(path), n_threads=1, verbose=False)
    assert isinstance(chain.client, Llama)
    assert chain.embed_query("the river") == ours.embed("the river")
    assert chain.embed_documents(TEXTS[:2]) == ours.embed(TEXTS[:2])
    chain.client.close()


def test_last_n_tokens_size_is_what_penalties_look_at(speaking_path: Path) -> None:
    asked = {"max_tokens": 30, "temperature": 0.0, "repeat_penalty": 2.0, "logit_bias": {2: -100}}
    chat = [{"role": "user", "content": "yes the"}]
    with (
        Llama(speaking_path, n_threads=1, n_ctx=256, last_n_tokens_size=3) as few,
        Llama(speaking_path, n_threads=1, n_ctx=256) as many,
    ):
        assert few.last_n_tokens_size == 3
        got, other = (llm("the yes", **asked)["choices"] for llm in (few, many))
        assert got != other
        assert got == many("the yes", **asked, repeat_last_n=3)["choices"]
        assert other == few("the yes", **asked, repeat_last_n=64)["choices"]
        answer, expected = (
            llm.create_chat_completion(chat, **asked, **more)["choices"]
            for llm, more in ((few, {}), (many, {"repeat_last_n": 3}))
        )
        assert answer == expected
        prompt = many.tokenize(b"the yes")
        ids = [[*islice(llm.generate(prompt, temp=0.0, repeat_penalty=2.0), 120)] for llm in (few, many)]
        assert ids[0] != ids[1]
