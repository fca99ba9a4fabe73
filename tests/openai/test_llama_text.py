"""Seeds, stops, bytes, and functions of the caller, as llama-cpp-python has them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from pass_edge import Engine, Llama, Sampling, SettingsError
from tests.support.chat_requests import MESSAGES

GREEDY = {"temperature": 0.0, "max_tokens": 12}


@pytest.fixture(scope="module")
def llm(speaking_path: Path) -> Iterator[Llama]:
    with Llama(speaking_path, n_ctx=512, n_threads=1, seed=1) as llm:
        yield llm


def text_of(result: Any) -> str:
    return result["choices"][0]["text"]


# -- seeds -----------------------------------------------------------------------------------------------


def seeds_of(seed: int, count: int) -> list[int]:
    """What llama-cpp-python draws: each seed is made of the one before."""
    seeds = [seed]
    for _ in range(count):
        seeds.append(random.Random(seeds[-1]).randint(0, 2**32))
    return seeds[1:]


CALLS: dict[str, Callable[[Llama], str]] = {
    "completion": lambda llm: text_of(llm("the ", max_tokens=8)),
    "chunks": lambda llm: "".join(map(text_of, llm("the ", max_tokens=8, stream=True))),
    "chat": lambda llm: llm.create_chat_completion(MESSAGES, temperature=0.8, max_tokens=8)["choices"][0][
        "message"
    ]["content"],
    "async": lambda llm: text_of(asyncio.run(llm.acreate_completion("the ", max_tokens=8))),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("seed", [0, 42, 2**32 - 2])
def test_a_seed_begins_a_sequence_that_can_be_repeated(
    call: Callable[[Llama], str], seed: int, llm: Llama
) -> None:
    llm.set_seed(seed)
    texts = [call(llm) for _ in range(3)]
    assert len(set(texts)) == 3
    llm.set_seed(seed)
    assert [call(llm) for _ in range(3)] == texts


def test_the_seeds_are_llama_cpp_pythons(llm: Llama) -> None:
    llm.set_seed(42)
    texts = [text_of(llm("the ", max_tokens=8)) for _ in range(3)]
    assert texts == [text_of(llm("the ", max_tokens=8, seed=seed)) for seed in seeds_of(42, 3)]
    llm("the ", max_tokens=1, seed=7)  # a seed of a call begins a new sequence
    assert text_of(llm("the ", max_tokens=8)) == text_of(llm("the ", max_tokens=8, seed=seeds_of(7, 1)[0]))


def test_the_constructors_seed_begins_one_too(llm: Llama, speaking_path: Path) -> None:
    with Llama(speaking_path, n_ctx=512, n_threads=1, seed=9) as other:
        llm.set_seed(9)
        for call in CALLS.values():
            assert call(other) == call(llm)


@pytest.mark.parametrize("seed", [None, -1, llama_cpp.LLAMA_DEFAULT_SEED])
def test_without_a_seed_texts_are_random(seed: int | None, llm: Llama) -> None:
    llm.set_seed(seed)
    assert len({text_of(llm("the ", max_tokens=12)) for _ in range(3)}) == 3


# -- stops and bytes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(engine: Engine) -> str:
    """What is told without a stop."""
    return engine.stream("the ", max_tokens=60, sampling=Sampling(seed=3)).run().text


@pytest.mark.parametrize(
    "kind", [str, str.encode, lambda x: [x], lambda x: [x.encode()], lambda x: ("never told", x)]
)
def test_one_stop_is_one(kind: Callable[[str], Any], told: str, engine: Engine, llm: Llama) -> None:
    whole = next(told[i : i + 2] for i in range(4, 50) if "\ufffd" not in told[i : i + 2])
    expected = told[: told.index(whole)]
    given = {"max_tokens": 60, "stop": kind(whole)}
    generation = engine.stream("the ", sampling=Sampling(seed=3), **given).run()
    assert (generation.text, generation.finish_reason) == (expected, "stop")
    assert text_of(llm("the ", seed=3, **given)) == expected


def test_a_stop_is_not_its_letters(engine: Engine, told: str) -> None:
    letters = sorted({letter for letter in told[:20] if letter != "\ufffd"})
    stop = "".join(letters[:2]) + "never told"
    assert engine.stream("the ", max_tokens=60, stop=stop, sampling=Sampling(seed=3)).run().text == told


@pytest.mark.parametrize("stop", [None, (), [], "", b"", [""]])
def test_no_stop_stops_nothing(stop: Any, engine: Engine, told: str) -> None:
    assert engine.stream("the ", max_tokens=60, stop=stop, sampling=Sampling(seed=3)).run().text == told


@pytest.mark.parametrize("stop", [5, [5], [["a"]]])
def test_a_stop_that_is_no_text_is_refused(stop: Any, llm: Llama) -> None:
    with pytest.raises((SettingsError, TypeError)):
        llm("the ", stop=stop)


@pytest.mark.parametrize("prompt", [b"the yes", bytearray(b"the yes"), [b"the yes"], ["the yes"]])
def test_bytes_are_text(prompt: Any, llm: Llama) -> None:
    expected = llm("the yes", echo=True, **GREEDY)
    assert llm(prompt, echo=True, **GREEDY)["choices"] == expected["choices"]
    assert llm(prompt, **GREEDY)["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


def test_bytes_in_messages_are_text(llm: Llama) -> None:
    messages = [{**message, "content": message["content"].encode()} for message in MESSAGES]
    expected = llm.create_chat_completion(MESSAGES, **GREEDY)
    assert llm.create_chat_completion(messages, **GREEDY)["choices"] == expected["choices"]
    assert llm.engine.render(messages) == llm.engine.render(MESSAGES)


def test_bytes_that_are_no_utf8_are_tokens_of_bytes(llm: Llama) -> None:
    raw = b"\xff\xc3"
    assert llm.detokenize(llm.tokenize(raw, add_bos=False)) == raw
    assert llm(raw, **GREEDY)["usage"]["prompt_tokens"] == len(llm.tokenize(raw))


@pytest.mark.parametrize("take", [str, str.encode, lambda text: bytearray(text.encode())])
def test_tokenize_takes_text_and_its_bytes(take: Callable[[str], Any], llm: Llama) -> None:
    assert llm.tokenize(take("yes é")) == llm.tokenize("yes é".encode())
    assert llm.engine.tokenize(take("yes é")) == llm.engine.tokenize("yes é")


@pytest.mark.parametrize("wrong", [5, [1, 2], None])
def test_tokenize_takes_nothing_else(wrong: Any, llm: Llama) -> None:
    with pytest.raises(SettingsError, match="UTF-8 bytes, or text"):
        llm.tokenize(wrong)


@pytest.mark.parametrize("wrong", ["yes", b"yes", bytearray(b"yes")])
def test_text_is_no_tokens(wrong: Any, llm: Llama) -> None:
    for method in (llm.detokenize, llm.eval, lambda tokens: next(llm.generate(tokens))):
        with pytest.raises(SettingsError, match="token ids"):
            method(wrong)


@pytest.mark.parametrize("wrong", [None, 5, [None], [1.5]])
def test_a_prompt_that_is_neither_text_nor_tokens_is_refused(wrong: Any, engine: Engine) -> None:
    with pytest.raises(SettingsError, match="text, or a list of token ids"):
        engine.stream(wrong)


# -- logits processors and stopping criteria -------------------------------------------------------------

REPEATED = "the yes no the yes no the yes no the yes no"


def test_a_processor_sees_each_token_once_and_changes_no_text_by_itself(llm: Llama) -> None:
    expected = llm(REPEATED, **GREEDY)
    prompt = llm.tokenize(REPEATED.encode())
    seen: list[list[int]] = []

    def watch(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        assert (ids.dtype, logits.dtype, logits.shape) == (np.intc, np.float32, (llm.n_vocab(),))
        seen.append(ids.tolist())
        logits_after.append(logits.copy())
        logits[:] = 0  # its own copy
        return logits_after[-1]

    logits_after: list[np.ndarray] = []
    for given in (llama_cpp.LogitsProcessorList([watch]), [watch], watch):
        seen.clear()
        result = llm(REPEATED, logits_processor=given, **GREEDY)
        assert text_of(result) == text_of(expected)
        assert result["usage"]["draft"]["drafted_tokens"] == 0
        assert [len(ids) for ids in seen] == list(range(len(prompt), len(prompt) + 12))
        assert all(ids[: len(prompt)] == prompt for ids in seen)


def test_only_what_processors_leave_is_sampled(llm: Llama) -> None:
    allowed = llm.tokenize(b"yes", add_bos=False)

    def mask(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        masked = np.full_like(logits, -np.inf)
        masked[allowed] = logits[allowed]
        return masked

    def never_first(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        logits[allowed[0]] = -np.inf
        return logits

    both = llama_cpp.LogitsProcessorList([mask, never_first])
    text = text_of(llm("the ", max_tokens=20, logits_processor=both, seed=1))
    assert set(text.encode()) == set(llm.detokenize(allowed[1:]))
    chat = llm.create_chat_completion(MESSAGES, max_tokens=9, logits_processor=both)
    assert set(chat["choices"][0]["message"]["content"].encode()) <= set(b"yes")
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= [a-e]+ "s"', verbose=False)
    text = text_of(llm("the ", max_tokens=20, logits_processor=[mask], grammar=grammar, seed=1))
    assert text.rstrip("s").strip("e") == ""


def test_an_error_in_a_processor_reaches_the_caller_and_breaks_nothing(llm: Llama) -> None:
    expected = text_of(llm("the ", **GREEDY))
    with pytest.raises(ZeroDivisionError):
        llm("the ", logits_processor=[lambda ids, logits: logits / (1 // 0)])
    with pytest.raises(ZeroDivisionError):
        llm("the ", stopping_criteria=lambda ids, logits: 1 // 0 > 0)
    assert text_of(llm("the ", **GREEDY)) == expected


def test_a_criterion_stops_before_the_token_that_comes_next(llm: Llama) -> None:
    prompt = llm.tokenize(REPEATED.encode())
    whole = llm(REPEATED, **GREEDY)
    lengths: list[int] = []

    def enough(ids: np.ndarray, logits: np.ndarray) -> bool:
        lengths.append(len(ids))
        return len(ids) >= len(prompt) + 5

    for given in (llama_cpp.StoppingCriteriaList([enough]), [lambda *_: False, enough], enough):
        lengths.clear()
        result = llm(REPEATED, stopping_criteria=given, **GREEDY)
        assert result["choices"][0]["finish_reason"] == "stop"
        assert result["usage"]["completion_tokens"] == 5
        assert lengths == list(range(len(prompt), len(prompt) + 6))
        assert text_of(whole).startswith(text_of(result).rstrip("\ufffd"))
    streamed = llm(REPEATED, stopping_criteria=enough, stream=True, **GREEDY)
    assert "".join(map(text_of, streamed)) == text_of(result)


def test_a_criterion_sees_the_logits_of_the_next_token(llm: Llama) -> None:
    chosen: list[int] = []
    result = llm("the ", stopping_criteria=lambda ids, logits: chosen.append(int(logits.argmax())), **GREEDY)
    assert llm.detokenize(chosen).decode("utf-8", "replace") == text_of(result)
