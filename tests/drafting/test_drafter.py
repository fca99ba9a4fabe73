"""Draft heads compute their formula, are stored in files, and do not change the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pass_edge import (
    Engine,
    LibraryError,
    Lookahead,
    LookaheadError,
    Sampling,
    Settings,
    read_lookahead,
    write_sidecar,
)
from pass_edge.convert.merge import merge
from pass_edge.decoding.batch_generator import BatchGenerator
from pass_edge.drafting.drafter import Drafter, PassOutput
from pass_edge.drafting.heads import Heads, fastest_heads
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.generation import Generation
from pass_edge.native.devices import cpu_device, gpu_device
from pass_edge.native.draft_head import DraftHead, HeadWeights, OutputRows
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.native.quantized_matrix import QuantizedMatrix, encode_rows
from pass_edge.sampling.sampler import Sampler
from pass_edge.settings import context_settings

WIDTH, N_VOCAB = 64, 12
SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=1.5, seed=5))


def random_head(seed: int, n_embd: int = WIDTH, width: int = 96, inputs: int = 2) -> HeadWeights:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    n_input = inputs * n_embd
    return HeadWeights.of(matrix(width, n_input), matrix(width, n_input), matrix(n_embd, width))


def lookahead_for(model: Path, **parts: object) -> Lookahead:
    embeddings = TokenEmbeddings(model).rows(np.array([2, 5], np.int32))
    return Lookahead(
        embeddings=embeddings if parts.pop("rows", True) else embeddings[:0],
        base=read_base(model),
        candidates=np.array([0, 1, 2, 3, 5, 7, 8, 9, 11], np.int32),
        **parts,  # type: ignore[arg-type]
    )


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean() + 1e-6)


# the fastest kernels take eight rows at a time; other numbers of rows are multiplied as they are
@pytest.mark.parametrize("candidates", [[3, 1, 8], [3, 1, 8, 2, 0, 5, 7, 11]], ids=["three", "eight"])
@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("where", ["cpu", "gpu"])
def test_the_head_computes_its_formula(
    where: str, inputs: int, candidates: list[int], tiny_path: Path
) -> None:
    weights, rng = random_head(0, inputs=inputs), np.random.default_rng(1)
    vectors = [rng.standard_normal(WIDTH).astype(np.float32) for _ in range(3)]
    state, embedding, previous = vectors
    x = np.concatenate([rms(vector) for vector in vectors[:inputs]])
    gate, up, down = (matrix.in_four_bits().numbers() for matrix in (weights.gate, weights.up, weights.down))
    gated = (gate @ x) / (1 + np.exp(-(gate @ x))) * (up @ x)
    next_state = state + down @ gated
    output_matrix, chosen = TokenEmbeddings(tiny_path).output, np.array(candidates, np.int32)
    rows = output_matrix.rows(chosen).in_four_bits()
    device = {"cpu": cpu_device, "gpu": gpu_device}[where]()
    if not device:
        pytest.skip("there is no GPU")
    with (
        OutputRows(output_matrix, chosen, device) as output,
        DraftHead(weights, output, threads=1) as head,
    ):
        for _ in range(2):  # a step must not depend on the one before
            found, logits = head.step(state, embedding, previous)
            # ggml rounds the vectors to eight bits
            np.testing.assert_allclose(found, next_state, atol=0.015 * inputs)
            expected = rows.numbers() @ next_state
            np.testing.assert_allclose(logits, expected, atol=0.03 * inputs)


def test_heads_run_on_the_device_where_a_step_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[int | None, float] = {cpu_device(): 0.3, 77: 0.2}
    closed = []

    class Timed(Heads):
        def __init__(self, device: int | None = None) -> None:
            self.device = device or cpu_device()
            if device == 66:
                raise LibraryError("this device has no kernel")

        def step_seconds(self) -> float:
            return seconds[self.device]

        def close(self) -> None:
            closed.append(self.device)

    for gpu, expected in ((77, 77), (66, cpu_device()), (None, cpu_device())):
        monkeypatch.setattr("pass_edge.drafting.heads.gpu_device", lambda gpu=gpu: gpu)
        assert fastest_heads(Timed).device == expected  # type: ignore[attr-defined]
    assert closed == [cpu_device()], "the slower of two"


def test_the_time_of_a_step_is_measured(tiny_path: Path) -> None:
    lookahead = lookahead_for(tiny_path, hidden_head=random_head(2))
    heads = Heads(lookahead, TokenEmbeddings(tiny_path), threads=1)
    assert 0 < heads.step_seconds() < 1
    heads.close()


def test_a_matrix_is_rounded_to_four_bits_where_it_has_more() -> None:
    numbers = np.random.default_rng(3).standard_normal((2500, 64)).astype(np.float32)
    exact = QuantizedMatrix(encode_rows(numbers, "f16"), "f16", 64)
    rounded = exact.in_four_bits()
    assert rounded.data.nbytes == 2500 * 64 * 4.5 / 8
    assert np.abs(rounded.numbers() - numbers).max() < np.abs(numbers).max() / 8, "four bits have 16 steps"
    assert rounded.in_four_bits() is rounded
    odd = QuantizedMatrix(encode_rows(numbers[:, :40], "f16"), "f16", 40)
    assert odd.in_four_bits() is odd, "its rows cannot be divided into blocks of 32"


def test_a_lookahead_is_read_as_it_was_written(tiny_path: Path, tmp_path: Path) -> None:
    prefix = np.ones((3, WIDTH), np.float32)
    lookahead = lookahead_for(
        tiny_path, head=random_head(1, inputs=3), hidden_head=random_head(2), prefix=prefix
    )
    write_sidecar(lookahead, tmp_path / "x.pass.gguf")
    merge(tiny_path, tmp_path / "x.pass.gguf", tmp_path / "merged.gguf")
    write_sidecar(read_lookahead(tmp_path / "x.pass.gguf"), tmp_path / "y.pass.gguf")
    for again in (read_lookahead(tmp_path / "y.pass.gguf"), read_lookahead(tmp_path / "merged.gguf")):
        assert again.prefix is not None
        np.testing.assert_array_equal(again.prefix, prefix)
        np.testing.assert_array_equal(again.candidates, lookahead.candidates)
        for name in ("head", "hidden_head"):
            for part in ("gate", "up", "down"):
                found, expected = (getattr(getattr(each, name), part) for each in (again, lookahead))
                assert found.type_name == expected.type_name == "q8_0"
                np.testing.assert_array_equal(found.data, expected.data)


def test_a_lookahead_with_only_a_head_can_be_merged(tiny_path: Path, tmp_path: Path) -> None:
    write_sidecar(lookahead_for(tiny_path, rows=False, hidden_head=random_head(2)), tmp_path / "x.pass.gguf")
    merge(tiny_path, tmp_path / "x.pass.gguf", tmp_path / "merged.gguf")
    ids = []
    for model, lookahead in ((tiny_path, None), (tmp_path / "merged.gguf", "auto")):
        with Engine(model, lookahead=lookahead) as engine:
            assert engine.schedule == "auto"
            ids.append(engine.stream([1, 2, 3], sampling=SAMPLINGS[1], max_tokens=40).run().ids)
    assert ids[0] == ids[1]


def test_a_head_that_does_not_fit_is_refused(tiny_path: Path) -> None:
    with pytest.raises(LookaheadError, match="does not fit states of 64"):
        lookahead_for(tiny_path, hidden_head=random_head(0, n_embd=32))
    with pytest.raises(LookaheadError, match="does not fit states of 64"):
        lookahead_for(tiny_path, hidden_head=random_head(0, inputs=3))
    with pytest.raises(LookaheadError, match="not finite"):
        lookahead_for(
            tiny_path,
            head=HeadWeights.of(*(np.full(m.shape, np.nan) for m in vars(random_head(0)).values())),
        )
    with pytest.raises(LookaheadError, match="not different tokens"):
        Lookahead(
            np.zeros((0, WIDTH), np.float32),
            read_base(tiny_path),
            hidden_head=random_head(0),
            candidates=np.array([1, N_VOCAB], np.int32),
        )
    with pytest.raises(LookaheadError, match="1 to 64 rows"):
        lookahead_for(tiny_path, rows=False)


@pytest.mark.parametrize("sources", ["head", "lookahead and head", "both heads"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_heads_do_not_change_the_text(sources: str, sampling: Sampling, tiny_path: Path) -> None:
    lookahead = lookahead_for(
        tiny_path,
        rows=sources != "head",
        head=random_head(3, inputs=3) if sources != "head" else None,
        hidden_head=random_head(4) if "lookahead" not in sources else None,
    )
    settings = Settings(schedule="head" if sources == "head" else "fused", draft_max=2)
    with (
        Engine(tiny_path, settings=Settings(schedule="plain")) as plain,
        Engine(tiny_path, lookahead=lookahead, settings=settings) as engine,
    ):
        assert engine.schedule == settings.schedule
        drafted = engine.stream([1, 2, 3], sampling=sampling, max_tokens=120).run()
        assert drafted.ids == plain.stream([1, 2, 3], sampling=sampling, max_tokens=120).run().ids
        assert sum(drafted.stats.drafted) > sum(drafted.stats.accepted) > 0


@pytest.mark.parametrize("schedule", ["fused", "two-pass", "auto"])
def test_a_prefix_changes_drafts_but_not_the_text(schedule: str, tiny_path: Path) -> None:
    plain, *drafted = (
        answer(tiny_path, lookahead, schedule if lookahead else "plain")
        for lookahead in (None, lookahead_for(tiny_path), lookahead_for(tiny_path, prefix=prefix_of(9)))
    )
    assert plain.ids == drafted[0].ids == drafted[1].ids
    if schedule != "auto":  # auto may find that nothing pays here
        assert drafted[0].stats.accepted != drafted[1].stats.accepted


def prefix_of(count: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, WIDTH)).astype(np.float32)


def answer(model: Path, lookahead: Lookahead | None, schedule: str) -> Generation:
    settings = Settings(schedule=schedule, draft_max=None if schedule in ("auto", "plain") else 2)
    with Engine(model, lookahead=lookahead, settings=settings) as engine:
        assert engine.schedule == schedule
        return engine.stream([1, 2, 3], sampling=SAMPLINGS[1], max_tokens=200).run()


@pytest.mark.parametrize("rule", ["sampling", "rejection"])
def test_a_draft_ends_where_its_probability_falls_below_p_min(rule: str) -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1]], np.float32))
    sampler = Sampler(Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=3))
    for p_min, length in ((0.0, 3), (0.6, 3), (0.7, 2), (0.73, 1), (0.9, 1), (0.91, 0)):
        draft = Drafter(3, p_min=p_min - 1e-6).draft(PassOutput(logits), 0, sampler, 5, [], rule)
        assert len(draft.tokens) == length


def test_a_note_says_what_the_lookahead_lacks(tiny_path: Path) -> None:
    settings = Settings(schedule="head")
    with Engine(tiny_path, lookahead=lookahead_for(tiny_path), settings=settings) as engine:
        assert engine.schedule == "plain"
        assert "no head for hidden states" in engine.notes[-1]


def test_two_pass_drafts_as_the_paper_does(tiny_path: Path) -> None:
    """With lookahead tokens alone, whether there are heads or not."""
    passes = []
    for parts in ({}, {"head": random_head(1), "hidden_head": random_head(2)}):
        settings = Settings(schedule="two-pass")
        with Engine(tiny_path, lookahead=lookahead_for(tiny_path, **parts), settings=settings) as engine:
            stats = engine.stream([1, 2, 3], sampling=SAMPLINGS[0], max_tokens=60).run().stats
            passes.append((stats.passes, stats.drafted, stats.accepted))
    assert passes[0] == passes[1]


def test_corrected_outputs_come_first_and_then_the_hidden_head(tiny_path: Path) -> None:
    lookahead = lookahead_for(tiny_path, head=random_head(5, inputs=3), hidden_head=random_head(6))
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((2, N_VOCAB)).astype(np.float32)
    states = rng.standard_normal((2, WIDTH)).astype(np.float32)
    hidden = rng.standard_normal(WIDTH).astype(np.float32)
    heads = Heads(lookahead, TokenEmbeddings(tiny_path), threads=1)
    tokens, drafted = [4], []
    for prediction in Drafter(4, heads)._predictions(PassOutput(logits, hidden, states), tokens):
        drafted.append(prediction.logits.copy())
        tokens.append(prediction.token_at(int(prediction.logits.argmax()))[0])
    previous, expected = hidden, []
    for state, token in zip(states, tokens, strict=False):
        corrected = heads.correct(state, token, previous)
        assert corrected
        previous = corrected[0]
        expected.append(corrected[1].logits.copy())
    state = hidden
    for token in tokens[:4]:
        advanced = heads.advance(state, token)
        assert advanced
        state = advanced[0]
        expected.append(advanced[1].logits.copy())
    heads.close()
    np.testing.assert_array_equal(drafted, [*expected[:2], *expected[4:]])


def test_a_batch_of_prompts_is_answered_as_one_at_a_time(tiny_path: Path) -> None:
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [3, 3]]
    samplings = [Sampling(temperature=i % 2, seed=i) for i in range(4)]
    with Engine(tiny_path, settings=Settings(schedule="plain")) as engine:
        alone = [
            engine.stream(prompt, sampling=sampling, max_tokens=30).run().ids
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
    with (
        Model(tiny_path) as model,
        BatchGenerator(model, context_settings(model, Settings(), 1), 4, 64) as generator,
    ):
        for _ in range(2):  # answers must not depend on those before
            together: list[list[int]] = [[] for _ in prompts]
            for step in generator.answer(prompts, [Sampler(sampling) for sampling in samplings], 30):
                assert step.hidden.shape == (len(step.running), WIDTH)
                for which, token in zip(step.running, step.tokens, strict=True):
                    together[which].append(token)
            assert together == alone
