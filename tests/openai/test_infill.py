"""Completions with a suffix: the model is asked in its own tokens for the text in the middle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pass_edge import Engine, Settings, SettingsError
from pass_edge.openai.complete import complete
from pass_edge.openai.infill import infill_prompt
from pass_edge.openai.requests import CompletionRequest
from tests.support.reciting_model import END, write_reciting_model

# each is followed by the next one, whatever came before
PIECES = ["<fim_suffix>", "<fim_middle>", "return", " a", " +", " b", "<fim_prefix>", "def f(a, b):", "\n"]


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = write_reciting_model(tmp_path_factory.mktemp("filler") / "model.gguf", PIECES)
    with Engine(path, settings=Settings(threads=1)) as engine:
        yield engine


def test_the_prompt_is_prefix_suffix_and_middle(filler: Engine) -> None:
    vocabulary = filler.model.vocabulary
    ids = infill_prompt(vocabulary, "def f(a, b):", "\n")
    told = b"".join(vocabulary.piece(token, special=True) for token in ids).decode()
    assert told == "<fim_prefix>def f(a, b):<fim_suffix>\n<fim_middle>"
    assert infill_prompt(vocabulary, vocabulary.tokenize("def f(a, b):").tolist(), "\n") == ids


def test_tokens_written_in_the_texts_are_text(filler: Engine) -> None:
    vocabulary = filler.model.vocabulary
    ids = infill_prompt(vocabulary, END, END)
    assert [token for token in ids if vocabulary.is_end(token)] == []


@pytest.mark.parametrize("prompt", ["def f(a, b):", "", ["def f(a, b):", "\n"], [5, 6]])
@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_is_the_middle_and_ends_before_another_prefix(
    filler: Engine, prompt: object, stream: bool
) -> None:
    result = complete(filler, CompletionRequest(prompt, suffix="\n", temperature=0, stream=stream))
    choices = [choice for chunk in (result if stream else [result]) for choice in chunk["choices"]]
    n = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1
    for index in range(n):
        mine = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in mine) == "return a + b"
        assert mine[-1]["finish_reason"] == "stop"


def test_an_empty_suffix_asks_for_nothing(filler: Engine) -> None:
    asked = {"temperature": 0, "max_tokens": 3}
    plain, empty = (
        complete(filler, CompletionRequest(" a", suffix=suffix, **asked))["choices"][0]["text"]
        for suffix in (None, "")
    )
    assert plain == empty == " + b"


def test_a_model_without_these_tokens_says_so(engine: Engine) -> None:
    with pytest.raises(SettingsError, match="fill-in-the-middle"):
        complete(engine, CompletionRequest("x", suffix="y"))
    assert complete(engine, CompletionRequest("x", suffix="", max_tokens=2))["choices"]
