"""Text under a grammar: it matches, it is the same with and without drafts, and nothing that is no grammar
kills."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge import Engine, Lookahead, ModelError, Sampling, Settings, SettingsError
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.constraint import Constraint, schema_grammar
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.sampling.constrained import ConstrainedSampler
from pass_edge.sampling.sampler import Sampler
from tests.decoding.test_rollback import build, tree_forms
from tests.drafting.test_drafter import random_head

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


@pytest.fixture(scope="module")
def plain(speaking_path: Path) -> Iterator[Engine]:
    with Engine(speaking_path, settings=Settings(schedule="plain", threads=1)) as engine:
        yield engine


@pytest.fixture(scope="module", params=["auto", "head", "fused"])
def drafting(speaking_path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    candidates = np.array([*(3 + byte for byte in b'[]{}",:.yesnothabc01 '), *range(259, 275)], np.int32)
    rows = TokenEmbeddings(speaking_path).rows(candidates[:2])
    lookahead = Lookahead(
        embeddings=rows,
        base=read_base(speaking_path),
        candidates=np.unique(candidates),
        head=random_head(3),
        hidden_head=random_head(4),
    )
    chosen = Settings(schedule=request.param, threads=1, draft_max=None if request.param == "auto" else 2)
    with Engine(speaking_path, lookahead=lookahead, settings=chosen) as engine:
        assert engine.schedule == request.param
        yield engine


def texts(engine: Engine, grammar: str) -> tuple[list[list[int]], int]:
    """Ids of answers to some prompts, and how many drafted tokens were right in them."""
    ids, right = [], 0
    for seed, temperature in ((1, 0.0), (2, 1.0), (3, 2.0), (4, 0.7)):
        sampling = Sampling(temperature=temperature, seed=seed, grammar=grammar, repeat_penalty=1.3)
        answer = engine.stream("Say yes, " * seed, sampling=sampling, max_tokens=120, logprobs=1).run()
        assert len(answer.logprobs) == len(answer.ids)
        ids.append(answer.ids)
        right += sum(answer.stats.accepted)
    return ids, right


def test_a_grammar_gives_the_same_text_on_every_schedule(drafting: Engine, plain: Engine) -> None:
    right = 0
    for grammar in (LIST, WORDS, JSON):
        got, accepted = texts(drafting, grammar)
        assert got == texts(plain, grammar)[0]
        right += accepted
    assert right > 0 or drafting.schedule == "auto", "no draft was ever right; the test shows nothing"


@pytest.mark.parametrize("drafting", ["fused"], indirect=True)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
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


def test_what_a_schema_asks_for_is_what_comes(plain: Engine) -> None:
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
    wanted = {"type": "json_schema", "json_schema": {"name": "rivers", "schema": schema}}
    question = [{"role": "user", "content": "Name three rivers as JSON."}]
    texts, right = {}, 0
    for schedule in ("plain", "auto", "head", "fused", "two-pass"):
        with Engine(model_path, settings=Settings(schedule=schedule)) as engine:
            answers = [
                engine.create_chat_completion(
                    question, temperature=temperature, seed=seed, response_format=wanted, max_tokens=200
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
def test_choosing_freely_first_is_choosing_among_the_allowed(model: Model, temperature: float) -> None:
    """With the filters off, the short way and the long one give one token."""
    sampling = Sampling(temperature=temperature, seed=7, grammar=LIST, **UNFILTERED)
    constrained = ConstrainedSampler(sampling, Constraint(model.vocabulary, LIST), 0)
    rng, masked = np.random.default_rng(0), 0
    opened = model.vocabulary.tokenize("[").tolist()
    for position in range(200):
        logits = (rng.standard_normal(model.n_vocab) * 3).astype(np.float32)
        logits[[260, 262, 271, 272, 273]] += (
            6  # } and ] and the three words: now and then one of them is best
        )
        chosen = constrained.choose(logits, position, opened)
        allowed = Constraint(model.vocabulary, LIST)
        allowed.accept(opened)
        only = np.where(allowed.allowed(), logits, -np.inf).astype(np.float32)
        assert chosen == constrained.free.choose(only, position, opened)
        masked += chosen != constrained.free.choose(logits, position, opened)
    assert 0 < masked < 200


def test_a_choice_depends_on_its_history_not_on_the_calls_before(model: Model) -> None:
    sampling = Sampling(seed=1, grammar=WORDS)
    logits = np.random.default_rng(1).standard_normal(model.n_vocab).astype(np.float32)
    histories = [[9, 9, *model.vocabulary.tokenize(text)] for text in ("the", "", "ab,the", "ab", "c,c,")]
    alone = [
        ConstrainedSampler(sampling, Constraint(model.vocabulary, WORDS), 2).choose(
            logits, len(history), history
        )
        for history in histories
    ]
    one = ConstrainedSampler(sampling, Constraint(model.vocabulary, WORDS), 2)
    for _ in range(2):
        for history, expected in zip(histories, alone, strict=True):
            assert one.choose(logits, len(history), history) == expected
            assert abs(one.distribution(logits, history).probabilities.sum() - 1) < 1e-9


def test_rejection_draws_only_what_the_grammar_allows(speaking_path: Path) -> None:
    chosen = Settings(schedule="auto", verify="rejection", threads=1)
    with Engine(speaking_path, settings=chosen) as engine:
        for seed in range(5):
            sampling = Sampling(temperature=1.5, seed=seed, grammar=LIST.replace("+", "{1,9}"))
            answer = engine.stream("yes yes yes yes", sampling=sampling).run()
            assert re.fullmatch(r"\[(yes|no|0){1,9}]", answer.text)


def test_control_tokens_are_no_text(model: Model) -> None:
    grammar = Constraint(model.vocabulary, 'root ::= [^x]* "<s>"?')
    assert not grammar.count_allowed([1])  # <s>, which is written like text that the grammar allows
    assert grammar.count_allowed([2])  # the end
    assert not grammar.allowed()[1]
    assert not Constraint(model.vocabulary, 'root ::= "<" [a-z]{3} ">"').count_allowed([0])  # <unk>


def test_a_grammar_that_leaves_nothing_is_told(plain: Engine) -> None:
    ban = {token: float("-inf") for token in plain.tokenize("a")[-1:]}
    sampling = Sampling(grammar='root ::= "a"', logit_bias=ban)
    with pytest.raises(SettingsError, match="allows no token"):
        plain.stream("x", sampling=sampling).run()
    with pytest.raises(SettingsError, match="allows no token"):
        plain.stream("x", sampling=Sampling(grammar='root ::= "\\x00"')).run()
    assert plain.stream("x", sampling=Sampling(grammar='root ::= "ab"')).run().text == "ab"


@pytest.mark.parametrize(
    "text",
    [
        " \n",
        "root",
        "root ::= x",
        'root ::= "a',
        'root ::= root "a"',
        'root ::= "a"{9999999}',
        'other ::= "a"',
        "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        'root ::= ")))" ' + '( ")" ' * 50_000,
        'root ::= "a\0"',
    ],
)
def test_what_is_no_grammar_is_refused(model: Model, text: str) -> None:
    with pytest.raises(SettingsError, match="grammar"):
        Constraint(model.vocabulary, text)


def test_accepting_what_is_not_allowed_is_an_error_not_an_abort(model: Model) -> None:
    grammar = Constraint(model.vocabulary, LIST)
    with pytest.raises(SettingsError, match="does not allow"):
        grammar.accept([7])
    grammar.accept([3 + ord("[")])
    grammar.restart()
    assert grammar.count_allowed([3 + ord("[")]) == 1


def test_a_model_without_text_has_no_grammars(tiny_path: Path) -> None:
    with Model(tiny_path) as model, pytest.raises(ModelError, match="no tokenizer"):
        Constraint(model.vocabulary, LIST)


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "https://x.y/z"}, {"$ref": "#/no"}, {"enum": 3}]
)
def test_what_is_no_schema_is_refused(schema: dict) -> None:
    with pytest.raises(SettingsError, match="schema"):
        schema_grammar(schema)


def test_a_schema_that_nests_too_deep_is_refused() -> None:
    schema: dict = {"type": "integer"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SettingsError, match="deep"):
        schema_grammar(schema)


def test_strings_of_a_schema_hold_no_control_characters(model: Model) -> None:
    grammar = Constraint(model.vocabulary, schema_grammar({"type": "string"}))
    grammar.accept(3 + ord('"'))
    assert grammar.count_allowed([3 + ord("x")])
    assert not grammar.count_allowed([3 + ord("\n")])


# -- logprobs and logit bias ---------------------------------------------------------------------------


def test_logprobs_are_the_models_own(plain: Engine, drafting: Engine) -> None:
    sampling = Sampling(temperature=2, seed=3, top_k=3, logit_bias={5: 4.0}, grammar=WORDS)
    for engine in (plain, drafting):
        answer = engine.stream("the the the", sampling=sampling, max_tokens=40, logprobs=4).run()
        tokens = engine.tokenize("the the the")
        for i, told in enumerate(answer.logprobs):
            engine.session.prefill([*tokens, *answer.ids[:i]])
            row = engine.session.step(Sampler(Sampling(temperature=0))).logits[0].astype(np.float64)
            expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            assert told.token == answer.ids[i]
            assert told.logprob == pytest.approx(expected[told.token], abs=1e-5)
            best = np.argsort(-expected, kind="stable")[:4]
            assert [token for token, _ in told.top] == best.tolist()
            assert [value for _, value in told.top] == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_no_logprobs_unless_asked(plain: Engine) -> None:
    assert plain.stream("a", max_tokens=5).run().logprobs == []


def test_a_bias_forces_a_token_on_every_schedule(plain: Engine, drafting: Engine) -> None:
    sampling = Sampling(seed=1, logit_bias={3 + ord("a"): 1000.0, 3 + ord("b"): 900.0})
    for engine in (plain, drafting):
        assert engine.stream("x", sampling=sampling, max_tokens=30).run().text == "a" * 30


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), 1e31])
def test_a_bias_that_is_no_number_is_refused(bias: float) -> None:
    with pytest.raises(SettingsError, match="logit bias"):
        Sampling(logit_bias={1: bias})


@pytest.mark.parametrize("token", [-1, 1000])
def test_a_bias_for_no_token_is_refused(plain: Engine, token: int) -> None:
    with pytest.raises(SettingsError, match="outside the vocabulary"):
        plain.stream("a", sampling=Sampling(logit_bias={token: 1.0}))
