"""Recurrent and hybrid models in an engine: drafts do not change their text."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pass_edge import Engine, Generation, Lookahead, Sampling, Settings
from pass_edge.__main__ import main
from pass_edge.native.context import Context
from pass_edge.native.library import kernels
from tests.support.at_once import at_once
from tests.support.lookaheads import lookahead_for, random_head
from tests.support.pass_costs import flat
from tests.support.recurrent_models import KEEPS_STATES, KINDS, write_recurrent_model

FEW = dict.fromkeys(range(3, 32), -100.0)
"""With so few tokens to choose from, a text repeats itself."""
SAMPLINGS = (
    Sampling(temperature=0, logit_bias=FEW),
    Sampling(temperature=0.7, seed=3, logit_bias=FEW),
    Sampling(temperature=0),
)
PROMPTS = ([2], [2, 1, 0] * 8, [9, 4, 7, 4] * 5)
PARALLEL, LENGTH = 4, 40


@pytest.fixture(autouse=True)
def cheap_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts pay, and states are kept for all of them, whatever the machine is busy with."""
    setup = "pass_edge.engine_setup"
    monkeypatch.setattr(f"{setup}.draft_sources.step_costs", flat)
    monkeypatch.setattr(f"{setup}.schedule_choice.cheap_states", lambda model, settings, most, note: most)
    monkeypatch.setattr(f"{setup}.schedule_choice._STATES_PART", 1e6)


@pytest.fixture(params=["qwen35", "lfm2", "falcon-h1", "mamba2"])
def path(request: pytest.FixtureRequest, recurrent_path: Callable[[str], Path]) -> Path:
    return recurrent_path(request.param)


def engine_of(path: Path, lookahead: Lookahead | None = None, **options: Any) -> Engine:
    return Engine(path, lookahead=lookahead, settings=Settings(threads=1, context_size=512, **options))


def answers(engine: Engine) -> Iterator[Generation]:
    for prompt in PROMPTS:
        for sampling in SAMPLINGS:
            yield engine.stream(prompt, sampling=sampling, max_tokens=LENGTH).run()


def ids(engine: Engine) -> list[list[int]]:
    return [answer.ids for answer in answers(engine)]


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_do_not_change_the_text(kind: str, recurrent_path: Callable[[str], Path]) -> None:
    path = recurrent_path(kind)
    with engine_of(path, schedule="plain") as plain:
        assert plain.recurrent_bytes == plain.calibration.state_bytes
        expected = ids(plain)
    with engine_of(path, draft_max=8) as engine:
        assert (engine.schedule, engine.notes) == ("auto", [])
        drafted = list(answers(engine))
    assert [answer.ids for answer in drafted] == expected
    assert sum(sum(answer.stats.accepted) for answer in drafted) > 0, "nothing drafted was accepted"


@pytest.mark.parametrize("n_kept", [0, 2])
@pytest.mark.parametrize("kind", KEEPS_STATES)
def test_more_drafts_than_states_are_rolled_back_by_a_copy(
    kind: str, n_kept: int, recurrent_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pass_edge.engine_setup.schedule_choice.cheap_states", lambda *_: n_kept)
    with engine_of(recurrent_path(kind), schedule="plain") as plain:
        expected = ids(plain)
    with engine_of(recurrent_path(kind)) as engine:
        drafted = list(answers(engine))
        assert engine.recurrent_bytes == (1 + n_kept) * engine.calibration.state_bytes
    assert [answer.ids for answer in drafted] == expected
    assert max(len(answer.stats.drafted) for answer in drafted) == 8
    assert sum(sum(answer.stats.accepted) for answer in drafted) > 0, "nothing drafted was accepted"


def test_kept_states_stay_small_beside_the_model(
    recurrent_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recurrent_path("qwen35")
    with engine_of(path, schedule="plain") as plain:
        share = 3.5 * plain.calibration.state_bytes / plain.model.size
    monkeypatch.setattr("pass_edge.engine_setup.schedule_choice._STATES_PART", share)
    with engine_of(path) as engine:
        assert engine.recurrent_bytes == 3 * engine.calibration.state_bytes


def test_heads_draft_for_a_recurrent_memory(path: Path) -> None:
    lookahead = lookahead_for(path, hidden_head=random_head(1), rows=False)
    with engine_of(path, schedule="plain") as plain:
        expected = ids(plain)
    with engine_of(path, lookahead, schedule="head", draft_max=3) as engine:
        if path.stem == "lfm2":
            assert engine.schedule == "plain"
            assert any("has no logits beside hidden states" in note for note in engine.notes)
        else:
            assert engine.schedule == "head"
        assert ids(engine) == expected
    with engine_of(path, lookahead, draft_max=3) as engine:
        assert engine.schedule == "auto"
        assert ids(engine) == expected


@pytest.mark.parametrize("has_file", [True, False])
@pytest.mark.parametrize("schedule", ["two-pass", "fused"])
def test_lookahead_tokens_are_refused_in_a_sentence(
    recurrent_path: Callable[[str], Path], schedule: str, has_file: bool
) -> None:
    path = recurrent_path("granitehybrid")
    settings = Settings(threads=1, schedule=schedule)
    with Engine(path, lookahead=lookahead_for(path) if has_file else "auto", settings=settings) as engine:
        assert engine.schedule == "plain"
        (note,) = engine.notes
        assert "lookahead tokens cannot share the state" in note


@pytest.mark.parametrize(("kind", "is_told"), [("lfm2", False), ("qwen35", True)])
def test_training_is_suggested_where_a_file_would_be_used(
    kind: str, is_told: bool, recurrent_path: Callable[[str], Path]
) -> None:
    with Engine(recurrent_path(kind), settings=Settings(threads=1)) as engine:
        assert any("pass-edge train" in note for note in engine.notes) == is_told


def test_conversations_side_by_side_get_the_text_that_each_gets_alone(path: Path) -> None:
    jobs = [(prompt, sampling) for prompt in PROMPTS for sampling in SAMPLINGS]

    def work(engine: Engine, job: int) -> list[int]:
        prompt, sampling = jobs[job]
        return engine.stream(prompt, sampling=sampling, max_tokens=LENGTH).run().ids

    with engine_of(path, schedule="plain") as plain:
        expected = ids(plain)
    with engine_of(path, parallel=PARALLEL, draft_max=8) as engine:
        assert engine.parallel == PARALLEL
        assert at_once(*(partial(work, engine, job) for job in range(len(jobs)))) == expected


def test_a_chat_goes_on_from_the_end_of_the_last_prompt(path: Path) -> None:
    with engine_of(path, draft_max=8) as engine, engine_of(path, schedule="plain") as other:
        ask = {"sampling": SAMPLINGS[0], "max_tokens": 20}
        first = engine.stream([1, 2, 3, 4], **ask).run()
        for prompt, reused in (
            ([*engine.session.tokens, engine.session.root, 5], len(engine.session.tokens)),  # the next turn
            ([1, 2, 3, 4, *first.ids[:7], 9, 9], 3),  # the answer was changed: its prompt is kept
            ([1, 2, 9, 4], 0),
        ):
            again = engine.stream(prompt, **ask).run()
            assert again.stats.reused_tokens == reused
            assert again.ids == other.stream(prompt, **ask).run().ids
            engine.stream([1, 2, 3, 4], **ask).run()


def test_a_prompt_goes_to_the_conversation_that_can_be_continued(
    recurrent_path: Callable[[str], Path],
) -> None:
    """A longer common beginning is worth nothing where the memory cannot return to its end."""
    with engine_of(recurrent_path("lfm2"), parallel=2) as engine:
        long, short = [5] * 30, [*[5] * 20, 7]
        for prompt in (long, short):
            engine.stream(prompt, max_tokens=1).run()
        assert [session.shared_with([*long[:25], 7]) for session in engine.sessions] == [0, 20]
        assert [session.shared_with([*short, 1]) for session in engine.sessions] == [0, 21]


@pytest.mark.parametrize("kv", [True, False], ids=["cache", "tokens"])
def test_a_saved_session_goes_on_as_it_would_have(path: Path, kv: bool, tmp_path: Path) -> None:
    lookahead = None if path.stem == "lfm2" else lookahead_for(path, hidden_head=random_head(1), rows=False)
    schedule = "auto" if path.stem == "lfm2" else "head"  # nearly all drafts of a random head are rejected
    sampling = SAMPLINGS[2]
    with engine_of(path, lookahead, schedule=schedule, draft_max=3) as engine:
        engine.stream([1, 2, 3], sampling=sampling, max_tokens=12).run()
        tokens = [*engine.session.tokens, engine.session.root]
        engine.session.save(tmp_path / "s", kv=kv)
        expected = engine.stream(tokens, sampling=sampling, max_tokens=24).run()
        assert (engine.session.load(tmp_path / "s").cache is not None) == kv
        again = engine.stream(tokens, sampling=sampling, max_tokens=24).run()
        assert again.ids == expected.ids
        assert again.stats.reused_tokens == expected.stats.reused_tokens == len(tokens) - 1
    with engine_of(path, schedule="plain") as plain:
        assert (plain.session.load(tmp_path / "s").cache is not None) == kv
        assert plain.stream(tokens, sampling=sampling, max_tokens=24).run().ids == expected.ids


NOT_QUANTIZED = (("qwen35moe", "ffn_gate_inp"), ("rwkv7", r"time_mix_\w[12]"))
"""Kinds of models, and names of matrices that their files have in F32."""


@pytest.mark.parametrize(("kind", "matrices"), [*NOT_QUANTIZED, ("qwen35", "")])
def test_what_is_not_batch_invariant_is_told(kind: str, matrices: str, tmp_path: Path) -> None:
    """llama.cpp computes products of F32 matrices with other bits for several tokens."""
    path = write_recurrent_model(tmp_path / f"{kind}.gguf", kind, f32=matrices)
    with engine_of(path, schedule="plain") as plain:
        expected = ids(plain)
    with engine_of(path, draft_max=8) as engine:
        is_told = any("may leave plain decoding's at a near tie" in note for note in engine.notes)
        assert is_told == (engine.calibration.width == 1)
        assert is_told or matrices
        assert engine.calibration.rolls_back
        assert ids(engine) == expected, "no near tie in these texts"


@pytest.mark.skipif(not kernels(), reason="llama.cpp's kernels are not batch-invariant for F32")
@pytest.mark.parametrize(("kind", "matrices"), NOT_QUANTIZED)
def test_matrices_that_files_do_not_quantize_are_batch_invariant(
    kind: str, matrices: str, tmp_path: Path
) -> None:
    path = write_recurrent_model(tmp_path / f"{kind}.gguf", kind, f32=matrices)

    def logprobs(**options: Any) -> list[float]:
        with engine_of(path, **options) as engine:
            return [
                each.logprob
                for prompt, sampling in itertools.product(PROMPTS, SAMPLINGS)
                for each in engine.stream(prompt, sampling=sampling, max_tokens=99, logprobs=0).run().logprobs
            ]

    assert logprobs(draft_max=8) == logprobs(schedule="plain")


@pytest.mark.parametrize("kind", ["qwen35", "granitehybrid"])
def test_the_rejection_rule_takes_chains_too(kind: str, recurrent_path: Callable[[str], Path]) -> None:
    with engine_of(recurrent_path(kind), verify="rejection", draft_max=8) as engine:
        assert sum(len(answer.ids) for answer in answers(engine)) == LENGTH * len(PROMPTS) * len(SAMPLINGS)


@pytest.mark.parametrize("kind", ["lfm2", "jamba"])
def test_a_memory_that_is_not_rolled_back_right_decodes_plainly(
    kind: str, recurrent_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = recurrent_path(kind)
    restore = Context.restore_state

    def damaged(context: Context, sequence: int, state: np.ndarray, length: int) -> None:
        restore(context, sequence, np.where(np.arange(len(state)) < len(state) - 64, state, 0), length)

    monkeypatch.setattr(Context, "restore_state", damaged)
    monkeypatch.setenv("PASS_EDGE_CACHE", str(tmp_path))
    with engine_of(path, schedule="plain") as plain:
        expected = ids(plain)
    with engine_of(path, draft_max=8) as engine:
        assert engine.schedule == "plain"
        assert any("was not rolled back right" in note for note in engine.notes)
        assert ids(engine) == expected


@pytest.mark.parametrize("parallel", [1, 3])
def test_the_recurrent_memory_has_the_size_that_is_told(
    path: Path, parallel: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pass_edge.llama_cpp")
    with engine_of(path, draft_max=8, parallel=parallel) as engine:
        (size, cells, kept) = re.findall(
            r"size = +([\d.]+) MiB \( *(\d+) cells.* (\d+) rs_seq\)", caplog.text
        )[-1]
        n_states = int(cells) * (1 + int(kept))
        assert int(kept) == (8 if path.stem in KEEPS_STATES else 0)
        assert engine.recurrent_bytes == n_states * engine.calibration.state_bytes
        header = 0.1 * engine.recurrent_bytes  # each copy says its types and sizes
        assert engine.recurrent_bytes / 2**20 == pytest.approx(float(size), abs=0.01 + header / 2**20)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("qwen35", "to take back up to"), ("mamba2", "states are copied")],
)
def test_doctor_tells_the_recurrent_memory(
    kind: str, expected: str, recurrent_path: Callable[[str], Path]
) -> None:
    done = CliRunner().invoke(main, ["doctor", str(recurrent_path(kind)), "--json"])
    assert done.exit_code == 0, done.output
    memory = json.loads(done.stdout)["model"]["recurrent_memory"]
    assert re.match(r"\d+\.\d MiB: ", memory)
    assert expected in memory


def test_as_many_states_are_kept_as_fit_in_a_batch(
    recurrent_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp aborts if a batch has no more rows than states are kept."""
    monkeypatch.setattr("pass_edge.calibration.calibration.Calibration.prompt_batch", 16)
    with engine_of(recurrent_path("qwen35"), draft_max=31) as engine:
        assert engine.session._context.n_rollback == 14
        assert len(engine.stream(list(range(1, 32)), max_tokens=9, sampling=SAMPLINGS[0]).run().ids) == 9
