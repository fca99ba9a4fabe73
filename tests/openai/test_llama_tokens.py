"""`eval`, `sample`, `generate`, states and caches: the behaviours that llama-cpp-python's own tests check.

What its tests/test_llama.py checks, and where it is checked here:

| there | here |
| --- | --- |
| tokenization, with and without BOS, control tokens in text, an empty text | below |
| a greedy text, a grammar, a logits processor | below, test_llama_text.py, test_completions.py |
| `set_seed`, `save_state` and `load_state` repeat a text | below |
| a prompt that is asked again; one that shares its beginning with the last | below |
| an evaluated, a loaded, a cached and a shortened prompt: the same tokens as a fresh one | below |
| the same for recurrent and hybrid models | tests/decoding/test_recurrent.py, for the engine |
| the low-level classes of `llama_cpp._internals` | no: the engine has its own |
| embeddings | no: not supported |
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from pass_edge import ContextFullError, Engine, Llama, SessionError, Settings, SettingsError

PROMPT, HISTORY = b"the yes no", b" true false"


def new(path: Path, **given: Any) -> Llama:
    return Llama(path, **{"n_ctx": 64, "n_threads": 1, "verbose": False, **given})


@pytest.fixture(scope="module")
def fresh(speaking_path: Path) -> Iterator[Llama]:
    with new(speaking_path) as llm:
        yield llm


@pytest.fixture
def llm(speaking_path: Path) -> Iterator[Llama]:
    with new(speaking_path, seed=5) as llm:
        yield llm


@pytest.fixture(scope="module")
def prompt(fresh: Llama) -> list[int]:
    return fresh.tokenize(PROMPT, add_bos=True, special=True)


def first(llm: Llama, tokens: list[int], count: int = 3, **given: Any) -> list[int]:
    return list(itertools.islice(llm.generate(tokens, **{"temp": 0.0, **given}), count))


@pytest.fixture(scope="module")
def expected(fresh: Llama, prompt: list[int]) -> list[int]:
    return first(fresh, prompt)


# -- the vocabulary --------------------------------------------------------------------------------------


def test_tokens_of_a_text(llm: Llama) -> None:
    tokens = llm.tokenize(b"yes the")
    assert tokens[0] == llm.token_bos()
    assert tokens[1:] == llm.tokenize(b"yes the", add_bos=False)
    assert llm.detokenize(tokens) == llm.detokenize(tokens[1:]) == b"yes the"
    assert llm.token_eos() not in llm.tokenize(b"yes</s>")
    assert llm.tokenize(b"yes</s>", special=True)[-1] == llm.token_eos()
    assert llm.tokenize(b"", add_bos=True, special=True) == [llm.token_bos()]
    assert llm.detokenize([llm.token_bos()]) == b""
    assert llm.detokenize([llm.token_bos()], special=True) == b"<s>"
    assert llm.detokenize([llm.token_nl()]) == b"\n"


def test_a_space_after_bos_is_the_tokenizers(llm: Llama) -> None:
    spaced = next(token for token in range(llm.n_vocab()) if llm.detokenize([token]) == b" the")
    assert llm.detokenize([llm.token_bos(), spaced]) == b"the"
    assert llm.detokenize([spaced]) == llm.detokenize([spaced], prev_tokens=[llm.token_bos()]) == b" the"


def test_the_tokenizer_object(llm: Llama) -> None:
    for tokenizer in (llm.tokenizer(), llm.tokenizer_):
        assert isinstance(tokenizer, llama_cpp.LlamaTokenizer)
        assert tokenizer.encode("yes é") == llm.tokenize("yes é".encode(), special=True)
        assert tokenizer.decode(tokenizer.encode("yes é")) == "yes é"


def test_the_models_pointer_leads_to_its_vocabulary(llm: Llama) -> None:
    vocabulary = llama_cpp.llama_model_get_vocab(llm.model)
    assert llama_cpp.llama_vocab_n_tokens(vocabulary) == llm.n_vocab()
    assert llama_cpp.llama_vocab_get_text(vocabulary, llm.token_bos()) == b"<s>"


def test_metadata_is_llama_cpp_pythons(llm: Llama) -> None:
    theirs = llama_cpp.Llama(llm.model_path, verbose=False)
    assert llm.metadata == theirs.metadata
    assert (llm.n_embd(), llm.n_vocab(), llm.token_nl()) == (
        theirs.n_embd(), theirs.n_vocab(), theirs.token_nl()
    )  # fmt: skip
    theirs.close()


# -- eval and sample -------------------------------------------------------------------------------------


def test_eval_and_sample_give_the_completion(llm: Llama, prompt: list[int]) -> None:
    completion = llm(prompt, max_tokens=10, seed=5)
    llm.set_seed(5)
    llm.reset()
    llm.eval(prompt)
    sampled: list[int] = []
    while len(sampled) < 10:
        assert llm.n_tokens == len(llm.eval_tokens) == len(prompt) + len(sampled)
        sampled.append(llm.sample())
        assert llm.sample() == sampled[-1]  # nothing is evaluated by it
        llm.eval([sampled[-1]])
    assert llm.detokenize(sampled).decode("utf-8", "replace") == completion["choices"][0]["text"]
    assert llm.input_ids[: llm.n_tokens].tolist() == prompt + sampled


def test_sample_takes_the_parameters_of_a_completion(llm: Llama, prompt: list[int]) -> None:
    llm.eval(prompt)
    greedy = llm.sample(temp=0.0)
    assert llm.sample(1) == llm.sample(top_k=1) == greedy  # the first parameter is top_k
    assert llm.sample(temp=0.0, idx=llm.n_tokens - 1) == greedy
    (no,) = llm.tokenize(b"no", add_bos=False)
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= "no"', verbose=False)
    assert llm.detokenize([llm.sample(grammar=grammar)]) in (b"n", b"no")

    def only_no(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        assert ids.tolist() == prompt
        logits[np.arange(len(logits)) != no] = -np.inf
        return logits

    assert llm.sample(logits_processor=[only_no]) == no
    with pytest.raises(SettingsError, match="mirostat_mode"):
        llm.sample(mirostat_mode=2)


def test_nothing_is_sampled_before_eval(llm: Llama) -> None:
    with pytest.raises(SettingsError, match="call eval"):
        llm.sample()


def test_tokens_can_be_taken_back(llm: Llama, prompt: list[int], expected: list[int]) -> None:
    llm.eval([*prompt, 7, 8, 9])
    llm.n_tokens = len(prompt)
    assert llm.sample(temp=0.0) == expected[0]
    llm.eval(expected[:1])
    assert llm.sample(temp=0.0) == expected[1]


def test_scores_are_the_models_logits(speaking_path: Path, prompt: list[int]) -> None:
    with (
        Engine(speaking_path, settings=Settings(context_size=64, threads=1)) as engine,
        new(speaking_path, logits_all=True, settings=engine.settings) as llm,
    ):
        llm.eval(prompt[:4])
        llm.eval(prompt[4:])
        assert llm._scores.shape == (len(prompt), llm.n_vocab())
        for i, row in enumerate(llm.scores[: llm.n_tokens]):
            assert (row == engine.logits_after(prompt[: i + 1])).all()
        assert np.array_equal(llm.eval_logits[-1], llm.scores[llm.n_tokens - 1])
        assert llm.sample(temp=0.0, idx=2) == llm.scores[2].argmax()
        llm.n_tokens = 3
        llm.eval([9])
        assert (llm.scores[3] == engine.logits_after([*prompt[:3], 9])).all()
        logprobs = llm.logits_to_logprobs(llm._scores)
        assert np.exp(logprobs).sum(axis=1) == pytest.approx(np.ones(4), abs=1e-4)
        llm(prompt, max_tokens=2)
        assert (llm.scores[4] == engine.logits_after(prompt[:5])).all()


def test_a_full_context_is_an_error(llm: Llama) -> None:
    llm.eval([5] * 64)
    with pytest.raises(ContextFullError, match="64"):
        llm.eval([5])
    assert llm.n_tokens == 64
    assert len(first(llm, [5] * 60, 4)) == 4
    with pytest.raises(ContextFullError, match="64"):
        first(llm, [5] * 60, 5)
    llm.reset()
    with pytest.raises(SettingsError, match="outside the vocabulary"):
        llm.eval([10**6])


# -- generate --------------------------------------------------------------------------------------------


def test_generate_gives_the_completion(llm: Llama, prompt: list[int]) -> None:
    text = llm(prompt, max_tokens=20, seed=8)["choices"][0]["text"]
    llm.set_seed(8)
    tokens = first(llm, prompt, 20, temp=0.8)
    told = next((i for i, token in enumerate(tokens) if token == llm.token_eos()), 20)
    assert llm.detokenize(tokens[:told]).decode("utf-8", "replace") == text


def test_generate_goes_on_after_what_it_is_sent(llm: Llama, prompt: list[int], expected: list[int]) -> None:
    generated = llm.generate(prompt, temp=0.0)
    assert next(generated) == expected[0]
    after = generated.send([7, 8])
    assert llm.input_ids.tolist() == [*prompt, expected[0], 7, 8]
    assert after == first(llm, [*prompt, expected[0], 7, 8], 1)[0]


def test_generate_without_reset_goes_on_after_eval(
    llm: Llama, prompt: list[int], expected: list[int]
) -> None:
    llm.eval(prompt[:5])
    assert first(llm, prompt[5:], reset=False) == expected


def test_generate_and_other_work_do_not_disturb_each_other(
    llm: Llama, prompt: list[int], expected: list[int]
) -> None:
    generated = llm.generate(prompt, temp=0.0)
    tokens = []
    for token in itertools.islice(generated, 3):
        tokens.append(token)
        llm.engine.stream([5, 6, 7], max_tokens=2).run()
    assert tokens == expected


def test_generate_stops_where_a_criterion_says(llm: Llama, prompt: list[int], expected: list[int]) -> None:
    limit = len(prompt) + 2
    criteria = llama_cpp.StoppingCriteriaList([lambda ids, logits: len(ids) >= limit])
    assert list(llm.generate(prompt, temp=0.0, stopping_criteria=criteria)) == expected[:2]


# -- prompts that are in the cache -----------------------------------------------------------------------


def test_a_prompt_that_was_evaluated(llm: Llama, prompt: list[int], expected: list[int]) -> None:
    llm.eval(prompt)
    assert llm.n_tokens == len(prompt)
    assert llm.sample(temp=0.0, idx=len(prompt) - 1) == expected[0]
    assert first(llm, prompt) == expected
    assert llm.n_tokens == len(prompt) + len(expected) - 1


def test_a_prompt_that_was_evaluated_with_more(llm: Llama, prompt: list[int], expected: list[int]) -> None:
    llm.eval(prompt + llm.tokenize(HISTORY, add_bos=False))
    assert first(llm, prompt) == expected


def test_a_prompt_that_was_edited(llm: Llama, fresh: Llama) -> None:
    for text in ("the yes no", "the yes", "yes the no", "the yes no"):
        asked = {"max_tokens": 4, "temperature": 0.0}
        assert llm(text, **asked)["choices"] == fresh(text, **asked)["choices"]


def test_a_state_that_was_loaded(
    llm: Llama, speaking_path: Path, prompt: list[int], expected: list[int]
) -> None:
    llm.eval(prompt)
    state = pickle.loads(pickle.dumps(llm.save_state()))
    assert state.llama_state_size == len(state.llama_state) > 0
    with new(speaking_path) as loaded:
        loaded.eval([5] * len(prompt))
        loaded.load_state(state)
        assert loaded.n_tokens == len(prompt)
        assert loaded.input_ids[: loaded.n_tokens].tolist() == prompt
        assert loaded.engine.session.shared_with([*prompt, 0]) == len(prompt)  # nothing is decoded again
        assert first(loaded, prompt) == expected


def test_a_state_has_the_seed(llm: Llama) -> None:
    llm.set_seed(1337)
    state = llm.save_state()
    one, two = (llm("the ", max_tokens=6)["choices"] for _ in range(2))
    llm.load_state(state)
    assert llm("the ", max_tokens=6)["choices"] == one != two


def test_a_state_of_another_model_or_class_is_refused(llm: Llama, tiny_path: Path) -> None:
    with new(tiny_path) as other, pytest.raises(SessionError, match="belongs to its model"):
        other.load_state(llm.save_state())
    with pytest.raises(SettingsError, match="save_state"):
        llm.load_state(object())


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_prompt_in_a_cache(kind: str, speaking_path: Path, prompt: list[int], tmp_path: Path) -> None:
    cache: Any = llama_cpp.LlamaRAMCache() if kind == "ram" else llama_cpp.LlamaDiskCache(str(tmp_path))
    asked = {"max_tokens": 4, "seed": 3}
    with new(speaking_path) as writer:
        expected = writer(prompt, **asked)
        writer.set_cache(cache)
        writer(prompt, **asked)
    assert prompt in cache
    with new(speaking_path) as reader:
        reader.set_cache(cache)
        loaded: list[object] = []
        load = reader.load_state
        reader.load_state = lambda state: loaded.append(state) or load(state)  # type: ignore[method-assign]
        actual = reader(prompt, **asked)
        chunks = [*reader(prompt, stream=True, **asked)]
        reader.set_cache(None)
    assert len(loaded) == 1  # what is there already is not loaded
    assert actual["choices"] == expected["choices"]
    assert actual["usage"]["prompt_tokens_details"]["cached_tokens"] == len(prompt) - 1
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected["choices"][0]["text"]
