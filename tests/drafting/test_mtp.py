"""MTP layers: they follow the conversation, draft what they predict, and do not change the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge import Engine, Sampling, Settings
from pass_edge.convert.inspection import inspect
from pass_edge.drafting.draft_model import FEW_TOKENS, READ_AT_ONCE
from pass_edge.drafting.drafter import PassOutput, StepResult
from pass_edge.drafting.mtp import MtpConversation, MtpLayers
from pass_edge.drafting.tree import NO_DRAFT
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.model import Model, mtp_error
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.draft_statistics import TrialBackoff
from pass_edge.planning.planner import Planner
from pass_edge.planning.trial_budget import TrialBudget
from pass_edge.sampling.sampler import Sampler
from tests.support.at_once import at_once
from tests.support.pass_costs import flat
from tests.support.recurrent_models import N_VOCAB, write_recurrent_model

SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=0.8, seed=11))
PROMPTS = ([1, 2, 3], [4, 7, 1, 9] * 40)
THREADS = Settings(threads=1)


@pytest.fixture(scope="module")
def mtp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random qwen35 model with an MTP layer."""
    return write_recurrent_model(tmp_path_factory.mktemp("mtp") / "mtp.gguf", "qwen35", n_mtp=1)


@pytest.fixture
def drafts_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are nearly as cheap with drafts as without, and the layers are asked at every step."""
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", flat)
    monkeypatch.setattr(StepCosts, "observe", lambda *_: None)
    monkeypatch.setattr(TrialBackoff, "is_due", lambda _: True)
    monkeypatch.setattr(TrialBudget, "allows", lambda *_: True)


def engine_of(path: Path, **options: Any) -> Engine:
    return Engine(path, lookahead=None, settings=Settings(threads=1, context_size=512, **options))


def ids(engine: Engine, prompt: list[int], sampling: Sampling) -> list[int]:
    return engine.stream(prompt, sampling=sampling, max_tokens=60).run().ids


# -- the text ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(mtp_path: Path) -> dict[tuple[int, int], list[int]]:
    """What plain decoding says, by the numbers of prompt and sampling."""
    with engine_of(mtp_path, schedule="plain") as plain:
        assert plain.draft_model is None
        return {(p, s): ids(plain, PROMPTS[p], SAMPLINGS[s]) for p in range(2) for s in range(2)}


@pytest.mark.usefixtures("drafts_pay")
@pytest.mark.parametrize("ngrams", [True, False])
def test_the_text_is_that_of_plain_decoding(
    ngrams: bool, mtp_path: Path, alone: dict[tuple[int, int], list[int]]
) -> None:
    with engine_of(mtp_path, ngrams=ngrams) as engine:
        for (prompt, sampling), expected in alone.items():
            assert ids(engine, PROMPTS[prompt], SAMPLINGS[sampling]) == expected
        assert engine.draft_model
        assert engine.draft_model.n_asked > 100


@pytest.mark.usefixtures("drafts_pay")
@pytest.mark.parametrize("parallel", [1, 2])
def test_logprobs_are_those_of_plain_decoding(
    parallel: int, mtp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states that the layers take lie beside the logits in llama.cpp's buffer. A pass that decodes the
    accepted tokens again must not write there."""
    monkeypatch.setattr("pass_edge.engine_setup.schedule_choice.cheap_states", lambda *_: 0)
    few_tokens = dict.fromkeys(range(4, N_VOCAB), -100.0)  # so that some of several drafts are right
    sampling = Sampling(temperature=0.8, seed=1, logit_bias=few_tokens)

    def logprobs(engine: Engine) -> list[float]:
        answers = [engine.stream(p, sampling=sampling, max_tokens=60, logprobs=0).run() for p in PROMPTS]
        return [each.logprob for answer in answers for each in answer.logprobs]

    with engine_of(mtp_path, schedule="plain") as plain:
        expected = logprobs(plain)
    with engine_of(mtp_path, parallel=parallel) as engine:
        drafted = logprobs(engine)
        assert engine.draft_model
        assert engine.draft_model.n_asked > 50
    assert drafted == pytest.approx(expected)


@pytest.mark.usefixtures("drafts_pay")
def test_conversations_at_once_get_the_text_that_they_get_alone(
    mtp_path: Path, alone: dict[tuple[int, int], list[int]]
) -> None:
    with engine_of(mtp_path, parallel=3) as engine:
        cases = [partial(ids, engine, PROMPTS[p], SAMPLINGS[s]) for p, s in alone]
        assert at_once(*cases) == list(alone.values())
        assert engine.draft_model
        assert engine.draft_model.n_asked > 0


@pytest.mark.usefixtures("drafts_pay")
@pytest.mark.parametrize("kv", [True, False])
def test_a_saved_conversation_goes_on(
    kv: bool, mtp_path: Path, alone: dict[tuple[int, int], list[int]], tmp_path: Path
) -> None:
    """With its KV cache, the states of what was said before are not known."""
    with engine_of(mtp_path) as engine:
        engine.stream(PROMPTS[1], sampling=SAMPLINGS[0], max_tokens=20).run()
        engine.session.save(tmp_path / "saved", kv=kv)
    with engine_of(mtp_path) as engine:
        engine.session.load(tmp_path / "saved")
        expected = alone[1, 0]
        assert ids(engine, [*PROMPTS[1], *expected[:20]], SAMPLINGS[0])[:40] == expected[20:]
        assert engine.draft_model
        assert engine.draft_model.n_asked > 0


class Counted:
    """How often a method is called from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.count, method = 0, getattr(owner, name)

        def counting(*args: Any, **options: Any) -> Any:
            self.count += 1
            return method(*args, **options)

        monkeypatch.setattr(owner, name, counting)


def test_while_they_rest_passes_are_plain_ones(
    mtp_path: Path, alone: dict[tuple[int, int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is planned, and no hidden state is copied."""
    monkeypatch.setattr(TrialBudget, "allows", lambda *_: False)
    with engine_of(mtp_path, ngrams=False) as engine:
        learn = Counted(monkeypatch, Planner, "learn")
        copy = Counted(monkeypatch, MtpConversation, "observe_states")
        assert ids(engine, PROMPTS[0], SAMPLINGS[0]) == alone[0, 0]
        assert learn.count == 1, "of 60 passes, only the first finds that they are not paid for"
        assert copy.count <= 3, "those of the prompt, and of the first pass"
        assert engine.draft_model
        assert engine.draft_model.n_asked == 0


@pytest.mark.parametrize("every", [2, 7])
def test_they_draft_again_after_a_rest(
    every: int,
    mtp_path: Path,
    alone: dict[tuple[int, int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The states of the passes before are not known."""
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", flat)
    monkeypatch.setattr(StepCosts, "observe", lambda *_: None)
    monkeypatch.setattr(TrialBackoff, "is_due", lambda _: True)
    calls = itertools.count()
    monkeypatch.setattr(TrialBudget, "allows", lambda *_: next(calls) % every < 2)
    with engine_of(mtp_path, ngrams=False) as engine:
        for (prompt, sampling), expected in alone.items():
            assert ids(engine, PROMPTS[prompt], SAMPLINGS[sampling]) == expected
        assert engine.draft_model
        assert engine.draft_model.n_asked > 10


def test_they_can_be_left_out(mtp_path: Path) -> None:
    with engine_of(mtp_path, mtp=False) as engine:
        assert engine.draft_model is None


def test_inspect_counts_them(mtp_path: Path, tiny_path: Path) -> None:
    counts = [file["mtp_layers"] for file in inspect([mtp_path, tiny_path])["files"]]
    assert counts == [1, 0]


def test_a_draft_model_takes_their_place_and_a_note_says_so(mtp_path: Path, tmp_path: Path) -> None:
    draft = write_tiny_model(tmp_path / "draft.gguf", n_vocab=N_VOCAB)
    with engine_of(mtp_path, draft_model=draft) as engine:
        assert engine.draft_model
        assert engine.draft_model.model.path == draft
        assert any("takes the place of the MTP layer" in note for note in engine.notes)


def test_layers_that_llama_cpp_cannot_run_are_told(mtp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.loaded_model.mtp_works", lambda _: False)
    with engine_of(mtp_path) as engine:
        assert engine.draft_model is None
        assert any("MTP layer" in note for note in engine.notes)


def test_a_file_on_which_llama_cpp_aborts_is_found_in_a_child(mtp_path: Path, tmp_path: Path) -> None:
    assert mtp_error(mtp_path) == ""
    assert mtp_error(write_recurrent_model(tmp_path / "none.gguf", "qwen35")), "there are no such layers"
    assert "died" in mtp_error(write_recurrent_model(tmp_path / "two.gguf", "qwen35", n_mtp=2))


# -- they follow the conversation -------------------------------------------------------------------------


class Reference:
    """The model, and its MTP layer as llama.cpp decodes a whole conversation."""

    def __init__(self, model: Model) -> None:
        settings = ContextSettings(cells=1024, sequences=1, threads=1, cache_type_k="q8_0")
        self.context = Context(model, settings)
        self.context.keep_mtp_states()

    def states(self, tokens: list[int]) -> np.ndarray:
        """The model's states of ``tokens``."""
        self.context.clear()
        self.context.decode_tokens(rows_of_sequence(0, len(tokens), outputs=1), np.array(tokens, np.int32))
        return self.context.mtp_states(len(tokens)).copy()

    def chain(self, layers: MtpLayers, tokens: list[int], count: int) -> list[int]:
        """The drafts after ``tokens``, in a sequence of ``layers`` that is read anew."""
        layers.context.remove(1, 0)
        states = np.concatenate([np.zeros((1, layers.model.n_embd), np.float32), self.states(tokens)[:-1]])
        for start in range(0, len(tokens), READ_AT_ONCE):
            part = slice(start, start + READ_AT_ONCE)
            logits = layers.decode(1, start, tokens[part], states[part])
        chain = [int(logits.argmax())]
        state = layers.context.mtp_states(len(tokens[part]))[-1:].copy()
        for position in range(len(tokens), len(tokens) + count - 1):
            chain.append(int(layers.decode(1, position, chain[-1:], state).argmax()))
            state = layers.context.mtp_states(1).copy()
        return chain


@pytest.fixture
def layers(mtp_path: Path) -> Iterator[MtpLayers]:
    with Model(mtp_path, mtp=True) as model:
        layers = MtpLayers(model, N_VOCAB, THREADS, parallel=2, cells=2048)
        yield layers
        layers.close()


def drafted(conversation: MtpConversation, tokens: list[int], count: int) -> list[int]:
    """The first tokens that it drafts after ``tokens``, which it holds."""
    output = PassOutput(np.zeros((0, N_VOCAB), np.float32))
    sampler, tree = Sampler(SAMPLINGS[0]), NO_DRAFT.below(0)
    result = StepResult(tree, (tokens[-1],), output, sampler, [], "sampling", len(tokens) - 2, 1, 0.01)
    while conversation.n_lacking > FEW_TOKENS:
        conversation.read()
    source = conversation.draft_tokens(result)
    return [next(source).token for _ in range(count)]


def test_they_draft_what_they_predict_whatever_was_rejected(layers: MtpLayers) -> None:
    rng, reference = np.random.default_rng(0), Reference(layers.model)
    conversation = layers.new_conversation(depth=6)
    shared: list[int] = []
    for _ in range(5):
        tokens = [*shared, *rng.integers(0, N_VOCAB, int(rng.integers(2, 200))).tolist()]
        conversation.observe_states(len(shared), reference.states(tokens)[len(shared) : -1])
        conversation.begin(tokens)
        for _ in range(8):
            count = int(rng.integers(1, 7))
            chain = drafted(conversation, tokens, count)
            assert chain == reference.chain(layers, tokens, count)
            n_right = int(rng.integers(0, count + 1))
            new = [*chain[:n_right], *rng.integers(0, N_VOCAB, int(rng.integers(1, 12))).tolist()]
            start, tokens = len(tokens) - 1, [*tokens, *new]
            conversation.observe_states(start, reference.states(tokens)[start:-1])
            conversation.append(new)
        shared = tokens[: int(rng.integers(0, len(tokens) // 2))]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    passes=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9), st.integers(0, 2)), max_size=30),
    asked=st.tuples(st.integers(0, 40), st.integers(1, 8)),
)
def test_states_are_those_of_the_last_tokens(
    passes: list[tuple[int, int, int]],
    asked: tuple[int, int],
    layers: MtpLayers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever was rolled back, left out or forgotten: as if they were kept in a dictionary."""
    monkeypatch.setattr("pass_edge.drafting.mtp._STATES_KEPT", 16)
    conversation = layers.new_conversation(depth=3)
    known: dict[int, np.ndarray] = {}
    rng, end = np.random.default_rng(0), 0
    for n_back, count, n_missing in passes:
        start = max(0, end - n_back) if not n_missing else end + n_missing
        states = rng.random((count, layers.model.n_embd), np.float32)
        known = {position: known[position] for position in known if position < start} if not n_missing else {}
        known |= {start + row: states[row].copy() for row in range(count)}
        end = start + count
        conversation.observe_states(start, states)
        states[:] = 0  # it must not keep the array
        known = {position: known[position] for position in known if position >= conversation._first_state}
        assert len(known) >= min(count, 8)
    start, count = asked
    expected = [
        known.get(position, np.zeros(layers.model.n_embd)) for position in range(start - 1, start + count - 1)
    ]
    np.testing.assert_array_equal(conversation._states_before(start, count), expected)


def test_states_that_are_not_known_make_the_context_shorter(layers: MtpLayers) -> None:
    rng, reference = np.random.default_rng(1), Reference(layers.model)
    tokens = rng.integers(0, N_VOCAB, 100).tolist()
    conversation = layers.new_conversation(depth=3)
    conversation.observe_states(90, reference.states(tokens)[90:-1])
    conversation.begin(tokens)
    assert conversation.n_lacking == 9, "the first token whose state before it is known has position 91"
    assert len(drafted(conversation, tokens, 3)) == 3
    assert conversation.n_lacking == 1
    assert conversation.n_skipped == 0, "it cannot be read"


def test_after_a_skip_they_draft_from_the_tokens_that_follow(layers: MtpLayers) -> None:
    """And from all of them, once the start is read too."""
    rng, reference = np.random.default_rng(2), Reference(layers.model)
    tokens = rng.integers(0, N_VOCAB, 100).tolist()
    states = reference.states(tokens)
    conversation = layers.new_conversation(depth=3)
    conversation.observe_states(0, states[:-1])
    conversation.begin(tokens)
    conversation.skip_to(80)
    assert (conversation.n_skipped, conversation.n_lacking) == (80, 20)
    layers.context.remove(1, 0)
    logits = layers.decode(1, 80, tokens[80:], states[79:-1])
    assert drafted(conversation, tokens, 1) == [int(logits.argmax())]
    conversation.read_from_start()
    assert (conversation.n_skipped, conversation.n_lacking) == (0, 100)
    assert drafted(conversation, tokens, 3) == reference.chain(layers, tokens, 3)
