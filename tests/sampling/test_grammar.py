"""Text under a grammar matches it, and is the same with and without drafts. Invalid grammars are errors, not
crashes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance.llamacpp import lltokenizer_from_vocab

from pass_edge import Engine, ModelError, Sampling, Settings, SettingsError
from pass_edge.native.constraint import Constraint, _tokenizer, schema_grammar
from pass_edge.native.model import Model
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest
from pass_edge.sampling.constrained import ConstrainedSampler, sampler_for
from tests.support.draft_trees import build, tree_forms

LIST = 'root ::= "[" ("yes" | "no" | "0")+ "]"'
WORDS = 'root ::= ("the" " "? | [a-c]+ ",")+ "."'
SCHEMA = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "kind": {"enum": ["answer", "é\n"]},
        "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "note": {"type": "string", "maxLength": 5},
    },
    "required": ["ok", "kind", "list", "note"],
}
JSON = schema_grammar(SCHEMA)
UNFILTERED = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module")
def model(speaking_path: Path) -> Iterator[Model]:
    with Model(speaking_path) as model:
        yield model


def texts(engine: Engine, grammar: str) -> tuple[list[list[int]], int]:
    """Return the ids of answers to some prompts, and how many drafted tokens were right."""
    ids, right = [], 0
    for seed, temperature in ((1, 0.0), (2, 1.0), (3, 2.0), (4, 0.7)):
        sampling = Sampling(temperature=temperature, seed=seed, grammar=grammar, repeat_penalty=1.3)
        answer = engine.stream("Say yes, " * seed, sampling=sampling, max_tokens=120, logprobs=1).run()
        assert len(answer.logprobs) == len(answer.ids)
        ids.append(answer.ids)
        right += sum(answer.stats.accepted)
    return ids, right


@pytest.mark.filterwarnings("ignore:llama_token_get_attr:DeprecationWarning")
def test_llguidance_reads_the_vocabulary_as_it_reads_others(model_path: Path) -> None:
    with Model(model_path) as model:
        ours, theirs = _tokenizer(model.vocabulary), lltokenizer_from_vocab(model.vocabulary.handle)
        for token in range(model.vocabulary.size):
            assert ours.decode_bytes([token]) == theirs.decode_bytes([token])
            assert ours.is_special_token(token) == theirs.is_special_token(token)


def test_a_grammar_gives_the_same_text_on_every_schedule(drafting: Engine, plain: Engine) -> None:
    right = 0
    for grammar in (LIST, WORDS, JSON):
        got, accepted = texts(drafting, grammar)
        assert got == texts(plain, grammar)[0]
        right += accepted
    assert right > 0 or drafting.schedule == "auto", "no draft was right, so the test shows nothing"


@pytest.mark.parametrize("drafting", ["fused"], indirect=True)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(forms=st.lists(tree_forms(), min_size=1, max_size=6), grammar=st.sampled_from([LIST, WORDS]))
def test_any_pattern_of_right_and_wrong_drafts_gives_the_same_text(
    drafting: Engine, plain: Engine, forms: list, grammar: str
) -> None:
    sampling = Sampling(temperature=1.2, seed=5, grammar=grammar)
    prompt = plain.tokenize("Go: ")
    future = plain.stream(prompt, sampling=sampling, max_tokens=90).run().ids
    future += [0] * 8
    session = drafting.session
    session.prefill(prompt)
    sampler = ConstrainedSampler(sampling, Constraint(drafting.model.vocabulary, grammar), len(prompt))
    done = 0
    for parents, right, groups in forms:
        if done + 9 > len(future):
            break
        groups = [min(group, 2) for group in groups]
        tree = build((parents, right, groups), session.root, future[done:], drafting.model.n_vocab)
        new = list(session.decode_tree(tree, sampler).tokens)
        if any(map(drafting.model.vocabulary.is_end, new)) or done + len(new) > len(future) - 8:
            break
        assert new == future[done : done + len(new)]
        done += len(new)


def test_an_answer_matches_its_schema(plain: Engine) -> None:
    for seed in range(8):
        sampling = Sampling(temperature=1.5, seed=seed, grammar=JSON)
        answer = plain.stream("JSON: ", sampling=sampling, max_tokens=300).run()
        assert answer.finish_reason == "stop"
        content = json.loads(answer.text)
        assert list(content) == ["ok", "kind", "list", "note"]
        assert content["kind"] in SCHEMA["properties"]["kind"]["enum"]  # type: ignore[index]
        assert all(isinstance(number, int) for number in content["list"])


@pytest.mark.slow
def test_the_default_model_gives_the_same_json_on_every_schedule(model_path: Path) -> None:
    river = {"name": {"type": "string"}, "long": {"type": "boolean"}}
    rivers = {"type": "array", "items": {"type": "object", "properties": river, "required": ["name", "long"]}}
    schema = {"type": "object", "properties": {"rivers": {**rivers, "maxItems": 3}}, "required": ["rivers"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "rivers", "schema": schema}}
    question = [{"role": "user", "content": "Name three rivers as JSON."}]
    texts, right = {}, 0
    for schedule in ("plain", "auto", "head", "fused", "two-pass"):
        with Engine(model_path, settings=Settings(schedule=schedule)) as engine:
            answers = [
                complete(
                    engine,
                    ChatCompletionRequest(
                        question,
                        temperature=temperature,
                        seed=seed,
                        response_format=response_format,
                        max_tokens=200,
                    ),
                )
                for seed, temperature in ((1, 0.0), (2, 0.8), (3, 1.2))
            ]
        texts[schedule] = [answer["choices"][0]["message"]["content"] for answer in answers]
        right += sum(answer["usage"]["draft"]["accepted_tokens"] for answer in answers)
        assert texts[schedule] == texts["plain"]
    assert right > 0
    for text in texts["plain"]:
        assert set(json.loads(text)) == {"rivers"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_choosing_freely_first_equals_masking_first(model: Model, temperature: float) -> None:
    """With the filters off, both give the same token."""
    sampling = Sampling(temperature=temperature, seed=7, grammar=LIST, **UNFILTERED)
    constrained = ConstrainedSampler(sampling, Constraint(model.vocabulary, LIST), 0)
    rng, masked = np.random.default_rng(0), 0
    opened = model.vocabulary.tokenize("[").tolist()
    for position in range(200):
        logits = (rng.standard_normal(model.n_vocab) * 3).astype(np.float32)
        logits[[260, 262, 271, 272, 273]] += 6  # }, ] and the three words are sometimes best
        chosen = constrained.choose(logits, position, opened)
        allowed = Constraint(model.vocabulary, LIST)
        allowed.accept(opened)
        allowed_logits = np.where(allowed.allowed(), logits, -np.inf).astype(np.float32)
        assert chosen == constrained.unconstrained.choose(allowed_logits, position, opened)
        masked += chosen != constrained.unconstrained.choose(logits, position, opened)
    assert 0 < masked < 200


def test_a_choice_depends_on_its_history_not_on_earlier_calls(model: Model) -> None:
    sampling = Sampling(seed=1, grammar=WORDS)
    logits = np.random.default_rng(1).standard_normal(model.n_vocab).astype(np.float32)
    histories = [[9, 9, *model.vocabulary.tokenize(text)] for text in ("the", "", "ab,the", "ab", "c,c,")]
    expected = [
        ConstrainedSampler(sampling, Constraint(model.vocabulary, WORDS), 2).choose(
            logits, len(history), history
        )
        for history in histories
    ]
    sampler = ConstrainedSampler(sampling, Constraint(model.vocabulary, WORDS), 2)
    for _ in range(2):
        for history, token in zip(histories, expected, strict=True):
            assert sampler.choose(logits, len(history), history) == token
            assert abs(sampler.distribution(logits, history).probabilities.sum() - 1) < 1e-9


def test_rejection_draws_only_what_the_grammar_allows(speaking_path: Path) -> None:
    chosen = Settings(schedule="auto", verify="rejection", threads=1)
    with Engine(speaking_path, settings=chosen) as engine:
        for seed in range(5):
            sampling = Sampling(temperature=1.5, seed=seed, grammar=LIST.replace("+", "{1,9}"))
            answer = engine.stream("yes yes yes yes", sampling=sampling).run()
            assert re.fullmatch(r"\[(yes|no|0){1,9}]", answer.text)


def test_control_tokens_are_not_text(model: Model) -> None:
    grammar = Constraint(model.vocabulary, 'root ::= [^x]* "<s>"?')
    assert not grammar.count_allowed([1])  # <s> is spelled like a text that the grammar allows
    assert grammar.count_allowed([2])  # the end token
    assert not grammar.allowed()[1]
    assert not Constraint(model.vocabulary, 'root ::= "<" [a-z]{3} ">"').count_allowed([0])  # <unk>


@pytest.mark.parametrize("grammar", [JSON, LIST, WORDS, 'root ::= "é" [^ü]+ "→"', 'root ::= [^x]* "<s>"?'])
def test_the_mask_allows_what_is_allowed_one_by_one_or_the_token_that_is_forced(
    model: Model, grammar: str
) -> None:
    constraint, rng, ends = Constraint(model.vocabulary, grammar), np.random.default_rng(0), 0
    tokens = range(model.vocabulary.size)
    for _ in range(200):
        allowed, forced = constraint.allowed(), constraint.forced()
        alone = [constraint.count_allowed([token]) == 1 for token in tokens]
        if forced:
            assert np.flatnonzero(allowed).tolist() == forced[:1]
            assert constraint.count_allowed(forced) == len(forced)
        else:
            np.testing.assert_array_equal(allowed, alone)
        token = int(rng.choice(np.flatnonzero(allowed)))
        if model.vocabulary.is_end(token):
            constraint.restart()
            ends += 1
        else:
            constraint.accept([token])
    assert ends or "[^" in grammar


def test_a_grammar_that_allows_no_token_is_an_error(plain: Engine) -> None:
    ban = {token: float("-inf") for token in plain.tokenize("a")[-1:]}
    sampling = Sampling(grammar='root ::= "a"', logit_bias=ban)
    with pytest.raises(SettingsError, match="allows no token"):
        plain.stream("x", sampling=sampling).run()
    assert plain.stream("x", sampling=Sampling(grammar='root ::= "ab"')).run().text == "ab"


@pytest.mark.parametrize(
    "text",
    [
        " \n",
        "root",
        "root ::= x",
        'root ::= "a',
        'other ::= "a"',
        "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        'root ::= ")))" ' + '( ")" ' * 50_000,
        'root ::= "a\0"',
    ],
)
def test_an_invalid_grammar_is_refused(model: Model, text: str) -> None:
    with pytest.raises(SettingsError, match="grammar"):
        Constraint(model.vocabulary, text)


def test_accepting_a_disallowed_token_is_an_error_not_an_abort(model: Model) -> None:
    grammar = Constraint(model.vocabulary, LIST)
    with pytest.raises(SettingsError, match="does not allow"):
        grammar.accept([7])
    grammar.accept([3 + ord("[")])
    grammar.restart()
    assert grammar.count_allowed([3 + ord("[")])


def test_a_model_without_a_tokenizer_has_no_grammars(tiny_path: Path) -> None:
    with Model(tiny_path) as model, pytest.raises(ModelError, match="no tokenizer"):
        Constraint(model.vocabulary, LIST)


def test_strings_of_a_schema_hold_no_control_characters(model: Model) -> None:
    grammar = Constraint(model.vocabulary, schema_grammar({"type": "string"}))
    grammar.accept([3 + ord('"')])
    assert grammar.count_allowed([3 + ord("x")])
    assert not grammar.count_allowed([3 + ord("\n")])


def test_a_history_may_grow_shrink_and_change(speaking_path: Path) -> None:
    """Questions about one list that grows, about shorter ones and about other ones get the answers that a new
    sampler gives."""
    with Model(speaking_path) as model:
        sampling = Sampling(temperature=0, grammar='root ::= "ab" [cd] "e" [fg]+')
        ids = {letter: int(model.vocabulary.tokenize(letter)[0]) for letter in "abcdefg"}
        sampler = sampler_for(sampling, model.vocabulary, 1)
        growing = [0]
        for letter in "abce":
            growing.append(ids[letter])
            assert sampler.forced(growing) == sampler_for(sampling, model.vocabulary, 1).forced(growing)
        for text in ("abd", "ab", "abdef", "abce"):
            history = [0, *(ids[letter] for letter in text)]
            assert sampler.forced(history) == sampler_for(sampling, model.vocabulary, 1).forced(history)
        assert sampler.forced(growing) == sampler_for(sampling, model.vocabulary, 1).forced(growing)
