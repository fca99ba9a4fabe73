"""A draft model: it fits or is refused, it follows its conversation, and it does not change the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from pass_edge import Engine, Llama, ModelError, Sampling, Settings, SettingsError
from pass_edge.drafting.draft_model import (
    FEW_TOKENS,
    READ_AT_ONCE,
    DraftConversation,
    DraftModel,
    check_draft,
    load_draft,
)
from pass_edge.drafting.drafter import PassOutput, StepResult
from pass_edge.drafting.tree import NO_DRAFT
from pass_edge.native.model import Model
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.draft_statistics import TrialBackoff
from pass_edge.planning.trial_budget import TrialBudget
from pass_edge.sampling.sampler import Sampler
from tests.support.at_once import at_once
from tests.support.draft_models import write_model
from tests.support.lookaheads import lookahead_for, random_head
from tests.support.pass_costs import flat
from tests.support.tiny_bert import write_tiny_bert

SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=0.8, seed=11))
PROMPTS = ([1, 2, 3], [4, 7, 1, 9] * 40)
WORDS = ("the", "▁the", "answer", "yes", "no", "0", "1")


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Draft models for ``tiny_path``, by name."""
    folder = tmp_path_factory.mktemp("drafts")
    shapes: dict[str, dict[str, Any]] = {
        "good": {"file_type": "Q4_0"},
        "bad": {"seed": 9},
        "with padding": {"n_vocab": 50},
        "without a token": {"n_vocab": 11},
        "too large": {"n_vocab": 300},
    }

    def get(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else write_model(path, **shapes[name])

    return get


@pytest.fixture(autouse=True)
def known_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child process tries to load each small model first."""
    monkeypatch.setattr("pass_edge.drafting.draft_model.check_model", lambda *_: True)


@pytest.fixture
def draft_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are nearly as cheap with drafts as without, and the draft model is asked at every step."""
    monkeypatch.setattr("pass_edge.engine_setup.draft_sources.step_costs", flat)
    monkeypatch.setattr(StepCosts, "observe", lambda *_: None)
    monkeypatch.setattr(TrialBackoff, "is_due", lambda _: True)
    monkeypatch.setattr(TrialBudget, "allows", lambda *_: True)


def engine_of(path: Path, draft: Path | None, **options: Any) -> Engine:
    settings = Settings(threads=1, context_size=512, draft_model=draft, **options)
    return Engine(path, lookahead=None, settings=settings)


def ids(engine: Engine, prompt: list[int], sampling: Sampling) -> list[int]:
    return engine.stream(prompt, sampling=sampling, max_tokens=60).run().ids


# -- the text ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("draft_pays")
@pytest.mark.parametrize("ngrams", [True, False])
@pytest.mark.parametrize("draft", ["good", "bad", "with padding", "without a token"])
def test_the_text_is_that_of_plain_decoding(
    draft: str, ngrams: bool, tiny_path: Path, drafts: Callable[[str], Path]
) -> None:
    with (
        engine_of(tiny_path, None, schedule="plain") as plain,
        engine_of(tiny_path, drafts(draft), ngrams=ngrams) as engine,
    ):
        for prompt in PROMPTS:
            for sampling in SAMPLINGS:
                assert ids(engine, prompt, sampling) == ids(plain, prompt, sampling)
        assert engine.draft_model
        assert engine.draft_model.n_asked > 20


@pytest.mark.usefixtures("draft_pays")
@pytest.mark.parametrize("rule", ["sampling", "rejection"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafts_of_a_good_model_are_accepted(
    rule: str, sampling: Sampling, tiny_path: Path, drafts: Callable[[str], Path]
) -> None:
    with engine_of(tiny_path, drafts("good"), ngrams=False, verify=rule) as engine:
        done = engine.stream([1, 2, 3], sampling=sampling, max_tokens=100).run()
        assert done.stats.tokens_per_pass > 1.3
    with engine_of(tiny_path, None, ngrams=False) as engine:
        alone = engine.stream([1, 2, 3], sampling=sampling, max_tokens=100).run()
        assert alone.stats.tokens_per_pass == 1
        assert rule == "rejection" or done.ids == alone.ids


@pytest.mark.usefixtures("draft_pays")
def test_conversations_at_once_get_the_text_that_they_get_alone(
    tiny_path: Path, drafts: Callable[[str], Path]
) -> None:
    cases = [(prompt, sampling) for prompt in PROMPTS for sampling in SAMPLINGS]
    with engine_of(tiny_path, None, schedule="plain") as plain:
        alone = [ids(plain, *case) for case in cases]
    with engine_of(tiny_path, drafts("good"), parallel=3) as engine:
        assert at_once(*(partial(ids, engine, *case) for case in cases)) == alone
        assert engine.draft_model
        assert engine.draft_model.n_asked > 0


@pytest.mark.usefixtures("draft_pays")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_saved_conversation_goes_on_with_another_draft_model(
    sampling: Sampling, tiny_path: Path, drafts: Callable[[str], Path], tmp_path: Path
) -> None:
    with engine_of(tiny_path, None, schedule="plain") as plain:
        expected = ids(plain, PROMPTS[1], sampling)
    with engine_of(tiny_path, drafts("good")) as engine:
        engine.stream(PROMPTS[1], sampling=sampling, max_tokens=20).run()
        engine.session.save(tmp_path / "saved", kv=True)
    with engine_of(tiny_path, drafts("bad")) as engine:
        engine.session.load(tmp_path / "saved")
        assert ids(engine, [*PROMPTS[1], *expected[:20]], sampling)[:40] == expected[20:]


@pytest.mark.usefixtures("draft_pays")
@pytest.mark.parametrize("kind", ["qwen35", "mamba2"])
def test_it_drafts_chains_for_a_recurrent_model(
    kind: str, recurrent_path: Callable[[str], Path], tmp_path: Path
) -> None:
    draft = write_model(tmp_path / "draft.gguf", n_vocab=32)
    with (
        engine_of(recurrent_path(kind), None, schedule="plain") as plain,
        engine_of(recurrent_path(kind), draft) as engine,
    ):
        for sampling in SAMPLINGS:
            assert ids(engine, [1, 2, 3], sampling) == ids(plain, [1, 2, 3], sampling)
        assert engine.draft_model
        assert engine.draft_model.n_asked > 0


# -- it follows the conversation --------------------------------------------------------------------------


@pytest.fixture
def draft_model(tiny_path: Path) -> Iterator[DraftModel]:
    with Model(tiny_path) as model:
        draft_model = DraftModel(model, 12, Settings(threads=1), parallel=2)
        yield draft_model
        draft_model.close()


def drafted(conversation: DraftConversation, tokens: list[int], count: int) -> list[int]:
    """The first tokens that it drafts after ``tokens``, which it holds."""
    output = PassOutput(np.zeros((0, 12), np.float32))
    sampler, tree = Sampler(Sampling(temperature=0)), NO_DRAFT.below(0)
    result = StepResult(tree, (tokens[-1],), output, sampler, [], "sampling", len(tokens) - 2, 1, 0.01)
    while conversation.n_lacking > FEW_TOKENS:
        conversation.read()
    source = conversation.draft_tokens(result)
    return [next(source).token for _ in range(count)]


def greedy(draft_model: DraftModel, tokens: list[int], count: int) -> list[int]:
    """The same tokens, decoded from the start in another sequence."""
    draft_model.context.remove(1, 0)
    for start in range(0, len(tokens), READ_AT_ONCE):
        logits = draft_model.decode(1, start, tokens[start : start + READ_AT_ONCE])
    chain = [int(logits.argmax())]
    for position in range(len(tokens), len(tokens) + count - 1):
        chain.append(int(draft_model.decode(1, position, chain[-1:]).argmax()))
    return chain


def test_it_drafts_what_it_would_say_whatever_was_rejected(draft_model: DraftModel) -> None:
    rng = np.random.default_rng(0)
    conversation = draft_model.new_conversation(depth=6)
    for _ in range(6):
        tokens = rng.integers(0, 12, int(rng.integers(1, 300))).tolist()
        conversation.begin(tokens)
        for _ in range(12):
            count = int(rng.integers(1, 7))
            chain = drafted(conversation, tokens, count)
            assert chain == greedy(draft_model, tokens, count)
            n_right = int(rng.integers(0, count + 1))
            new = [*chain[:n_right], *rng.integers(0, 12, int(rng.integers(1, 20))).tolist()]
            tokens += new
            conversation.append(new)
            assert conversation.length == len(tokens)


def test_only_what_is_lacking_is_read(draft_model: DraftModel) -> None:
    conversation = draft_model.new_conversation(depth=4)
    text = [1, 2, 3, 4] * 50
    conversation.begin(text)
    assert conversation.n_lacking == 200
    assert conversation.read() == READ_AT_ONCE
    assert conversation.n_lacking == 200 - READ_AT_ONCE
    drafted(conversation, text, 3)
    conversation.append([0, 5])
    assert conversation.n_lacking == 2, "the root was decoded, its drafts were wrong"
    conversation.begin([*text[:150], 7, 7])
    assert conversation.n_lacking == 2, "the beginning is the same"
    conversation.begin(text[:100])
    assert conversation.n_lacking == 1, "the root must be decoded again"


def test_the_time_of_a_step_follows_what_drafting_takes(
    draft_model: DraftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was measured where nothing else had used the caches of the processor."""
    clock = [0.0]
    draft_model.step_seconds, draft_model.token_seconds = 0.02, 0.001
    monkeypatch.setattr("pass_edge.drafting.draft_model.time.perf_counter", lambda: clock[0])
    decode = draft_model.decode

    def slow_decode(sequence: int, start: int, tokens: Sequence[int]) -> np.ndarray:
        clock[0] += 0.05 + 0.001 * (len(tokens) - 1)
        return decode(sequence, start, tokens)

    monkeypatch.setattr(draft_model, "decode", slow_decode)
    conversation = draft_model.new_conversation(depth=8)
    tokens = [1, 2, 3, 4, 5]
    conversation.begin(tokens)
    for _ in range(8):
        drafted(conversation, tokens, 8)
    assert draft_model.step_seconds == pytest.approx(0.05, rel=0.05)
    assert conversation.step_seconds == draft_model.step_seconds


@pytest.mark.parametrize("n_same", [200, 120, 50, 0])
def test_after_a_skip_it_drafts_from_the_tokens_that_follow(n_same: int, draft_model: DraftModel) -> None:
    """Also where the next conversation begins with the same tokens; and from all, once the start is read."""
    rng = np.random.default_rng(3)
    conversation, tokens = draft_model.new_conversation(depth=4), rng.integers(0, 12, 200).tolist()
    conversation.begin(tokens)
    conversation.skip_to(100)
    assert (conversation.n_skipped, conversation.n_lacking) == (100, 100)
    draft_model.context.remove(1, 0)
    assert drafted(conversation, tokens, 1) == [int(draft_model.decode(1, 100, tokens[100:]).argmax())]
    tokens = [*tokens[:n_same], *rng.integers(0, 12, 30).tolist()]
    conversation.begin(tokens)
    assert conversation.n_lacking == 30
    assert conversation.n_skipped == min(100, n_same)
    conversation.read_from_start()
    assert (conversation.n_skipped, conversation.n_lacking) == (0, len(tokens))
    assert drafted(conversation, tokens, 4) == greedy(draft_model, tokens, 4)


# -- files that do not fit --------------------------------------------------------------------------------


def refused(path: Path, model_path: Path) -> str:
    with Model(model_path) as model, pytest.raises((SettingsError, ModelError)) as error:
        load_draft(check_draft(path), model, model.n_vocab, Settings(), lambda _: None)
    return str(error.value)


def test_another_tokenizer_is_refused(
    tiny_path: Path, speaking_path: Path, drafts: Callable[[str], Path], tmp_path: Path
) -> None:
    speaking = write_model(tmp_path / "speaking.gguf", words=WORDS)
    same = write_model(tmp_path / "same.gguf", words=WORDS, n_layer=1, seed=1)
    changed = write_model(tmp_path / "changed.gguf", words=(*WORDS[:3], "perhaps", *WORDS[4:]))
    with Model(speaking) as model:
        load_draft(same, model, model.n_vocab, Settings(), lambda _: None).close()
    told = refused(changed, speaking)
    assert "'perhaps', not 'yes'" in told
    assert "same tokenizer" in told
    assert "none, not SPM" in refused(drafts("good"), speaking)
    assert "300 tokens, not 12" in refused(drafts("too large"), tiny_path)
    assert "SPM, not none" in refused(speaking_path, tiny_path)


def test_what_is_no_draft_model_is_refused(
    tiny_path: Path, recurrent_path: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "recurrent memory of a mamba2 model" in refused(recurrent_path("mamba2"), tiny_path)
    assert "embedding model" in refused(write_tiny_bert(tmp_path / "bert.gguf"), tiny_path)
    assert "nowhere" in refused(tmp_path / "nowhere.gguf", tiny_path)
    (tmp_path / "text.gguf").write_text("no model")
    assert "not a GGUF file" in refused(tmp_path / "text.gguf", tiny_path)
    writer = GGUFWriter(tmp_path / "eagle.gguf", "eagle3")
    writer.add_tensor("fc.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    told = refused(tmp_path / "eagle.gguf", tiny_path)
    assert "eagle3" in told
    assert "give a whole model" in told


def test_a_wrong_file_is_refused_before_the_model_is_loaded(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr(
        "pass_edge.engine_setup.loaded_model.open_calibrated", lambda *args: loaded.append(args[0])
    )
    (tmp_path / "text.gguf").write_text("no model")
    for name, told in (("text.gguf", "not a GGUF file"), ("nowhere.gguf", "nowhere")):
        with pytest.raises(ModelError, match=told):
            Engine(tiny_path, settings=Settings(draft_model=tmp_path / name))
    assert not loaded


def test_llama_takes_the_name_of_a_file_or_an_object(tiny_path: Path, drafts: Callable[[str], Path]) -> None:
    for draft in (str(drafts("good")), drafts("good")):
        with Llama(str(tiny_path), draft_model=draft, verbose=False) as llama:
            assert llama.engine.draft_model
    with Llama(str(tiny_path), draft_model=object(), verbose=False) as llama:
        assert llama.engine.draft_model is None


@pytest.mark.parametrize("schedule", ["head", "plain"])
def test_a_schedule_that_asks_no_draft_model_says_so(
    schedule: str, tiny_path: Path, drafts: Callable[[str], Path]
) -> None:
    settings = Settings(schedule=schedule, draft_model=drafts("good"))
    with Engine(
        tiny_path, lookahead=lookahead_for(tiny_path, hidden_head=random_head(4)), settings=settings
    ) as engine:
        assert engine.draft_model is None
        assert any("asks no draft model" in note for note in engine.notes)
