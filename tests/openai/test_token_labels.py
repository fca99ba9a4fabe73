"""Logprobs of completions: where tokens begin in the text, and one key for each alternative."""

from __future__ import annotations

from typing import Any

import pytest

from pass_edge import Engine
from pass_edge.native.constraint import lark_grammar
from pass_edge.openai.complete import complete
from pass_edge.openai.formatters import TokenOffsets
from pass_edge.openai.requests import CompletionRequest


def byte(value: int) -> int:
    """The tiny model's token of a byte."""
    return 3 + value


@pytest.mark.parametrize(
    ("raw", "offsets"),
    [
        ("aéb".encode(), [0, 1, 1, 2]),
        ("€a".encode(), [0, 0, 0, 1]),
        ("🤗🤗".encode(), [0, 0, 0, 0, 1, 1, 1, 1]),
        (b"\xe2a", [0, 1]),  # U+FFFD, and the letter
        (b"\xe2\x82\xe2\x82\xac", [0, 0, 1, 1, 1]),
        (b"\xff\xffa", [0, 1, 2]),
    ],
)
def test_a_token_within_a_character_begins_where_it_does(
    engine: Engine, raw: bytes, offsets: list[int]
) -> None:
    places = TokenOffsets(engine.model.vocabulary, 5)
    assert [places.next(byte(value)) for value in raw] == [5 + offset for offset in offsets]


def spelled(engine: Engine, text: str, prompts: Any = "x", **options: Any) -> Any:
    """Completions whose text is ``text``, byte by byte where the vocabulary has no token for a letter."""
    grammar = lark_grammar(f'start: "{text}"', {})
    asked = {"max_tokens": 40, "seed": 1, "temperature": 0, "logprobs": 20, "grammar": grammar, **options}
    return complete(engine, CompletionRequest(prompts, **asked))


@pytest.mark.parametrize("text", ["a€b", "🤗yes", "żółw"])
def test_offsets_lie_in_the_text(engine: Engine, text: str) -> None:
    choice = spelled(engine, text)["choices"][0]
    assert choice["text"] == text
    logprobs = choice["logprobs"]
    echoed = "x" + text
    for label, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not label.startswith("bytes:"):
            assert echoed[offset : offset + len(label)] == label
        else:
            assert not echoed[offset].isascii()


def test_every_alternative_has_a_key(engine: Engine) -> None:
    logprobs = spelled(engine, "a€b")["choices"][0]["logprobs"]
    for label, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert len(top) in (20, 21)
        assert top[label] == logprob
        assert any(key.startswith("bytes:") for key in top)


def test_alternatives_that_look_alike_have_their_ids(engine: Engine) -> None:
    """A letter's byte and a word of that letter: "0" is both."""
    vocabulary = engine.model.vocabulary
    alike = [token for token in range(vocabulary.size) if vocabulary.piece(token) == b"0"]
    assert len(alike) == 2
    for chosen in alike:
        asked = CompletionRequest("x", max_tokens=1, temperature=0, logprobs=280, logit_bias={chosen: 1000.0})
        top = complete(engine, asked)["choices"][0]["logprobs"]["top_logprobs"][0]
        other = alike[1 - alike.index(chosen)]
        assert {"0", f"token_id:{other}"} <= top.keys()
        assert len(top) == vocabulary.size


def test_each_prompt_of_a_batch_has_its_own_offsets_and_echo(engine: Engine) -> None:
    ids = engine.model.vocabulary.tokenize("yes é").tolist()
    prompts = ["a", "the yes", ids, [*ids, "no"]]
    result = spelled(engine, "b", prompts, n=2)
    starts = [choice["logprobs"]["text_offset"][0] for choice in result["choices"]]
    texts = ["a", "the yes", "yes é", "yes éno"]
    assert starts == [len(text) for text in texts for _ in range(2)]
    echoed = spelled(engine, "b", prompts, logprobs=None, echo=True)["choices"]
    assert [choice["text"] for choice in echoed] == [text + "b" for text in texts]
    chunks = spelled(engine, "b", prompts, stream=True)
    first = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["logprobs"]:
                first.setdefault(choice["index"], choice["logprobs"]["text_offset"][0])
    assert list(first.values()) == [len(text) for text in texts]
