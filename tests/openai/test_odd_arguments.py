"""Arguments of the library that are None, of another type, or not a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass_edge import Engine, Llama, SettingsError
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest
from tests.support.chat_requests import MESSAGES

ASKED = {"max_tokens": 4, "seed": 1}


@pytest.fixture(scope="module")
def llm(speaking_path: Path) -> Iterator[Llama]:
    with Llama(speaking_path, n_threads=1, n_ctx=256) as llm:
        yield llm


@pytest.mark.parametrize("request_type", [CompletionRequest, ChatCompletionRequest])
def test_none_is_as_if_a_parameter_were_absent(request_type: type, engine: Engine) -> None:
    """Frameworks pass on the options that nobody set."""
    given = "the yes" if request_type is CompletionRequest else MESSAGES
    expected = complete(engine, request_type(given, **ASKED))["choices"]
    for each in fields(request_type)[1:]:
        if each.name not in (*ASKED, "messages", "prompt"):
            assert complete(engine, request_type(given, **ASKED, **{each.name: None}))["choices"] == expected


def test_numbers_are_any_that_mean_the_same(llm: Llama) -> None:
    expected = llm("the yes", **ASKED, temperature=1.0, top_k=3)["choices"]
    for one, three, four in ((1, 3.0, 4.0), (np.float32(1), np.int64(3), np.int32(4)), (True, 3, 4)):
        asked = {"max_tokens": four, "seed": 1.0, "temperature": one, "top_k": three}
        assert llm("the yes", **asked)["choices"] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "0.5"), ("max_tokens", "4"), ("max_tokens", 4.5), ("top_k", float("inf")),
        ("seed", 1.5), ("seed", float("nan")), ("top_p", [1]), ("n", "two"), ("logprobs", {}),
    ],
)  # fmt: skip
def test_what_is_no_number_is_named(name: str, value: Any, llm: Llama) -> None:
    with pytest.raises(SettingsError, match=f"{name} is .*; it must be a (whole )?number"):
        llm("the yes", **{name: value})


def test_a_prompt_is_any_sequence(llm: Llama) -> None:
    expected = llm([5, 6], **ASKED)["choices"]
    for prompt in ((5, 6), np.array([5, 6]), range(5, 7), (token for token in (5, 6))):
        assert llm(prompt, **ASKED)["choices"] == expected
    texts = llm(["the", "yes"], **ASKED)["choices"]
    for prompts in (("the", "yes"), iter(["the", "yes"])):
        assert llm(prompts, **ASKED)["choices"] == texts


@pytest.mark.parametrize("prompt", [None, 5, 1.5, [None], [[None]], [1.5]])
def test_what_is_no_prompt_is_a_sentence(prompt: Any, llm: Llama) -> None:
    with pytest.raises(SettingsError, match=r"prompt is .*; it must be text|token ids"):
        llm(prompt, **ASKED)
