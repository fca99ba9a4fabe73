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
from pass_edge.drafting.heads import Heads, fastest_heads
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.devices import cpu_device, gpu_device
from pass_edge.native.draft_head import DraftHead, HeadWeights, OutputRows
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.quantized_matrix import QuantizedMatrix, encode_rows
from tests.support.lookaheads import N_VOCAB, WIDTH, lookahead_for, random_head

SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=1.5, seed=5))


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
    gate, up, down = (matrix.to_four_bits().numbers() for matrix in (weights.gate, weights.up, weights.down))
    gated = (gate @ x) / (1 + np.exp(-(gate @ x))) * (up @ x)
    next_state = state + down @ gated
    output_matrix, chosen = TokenEmbeddings(tiny_path).output, np.array(candidates, np.int32)
    rows = output_matrix.rows(chosen).to_four_bits()
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
    rounded = exact.to_four_bits()
    assert rounded.data.nbytes == 2500 * 64 * 4.5 / 8
    assert np.abs(rounded.numbers() - numbers).max() < np.abs(numbers).max() / 8, "four bits have 16 steps"
    assert rounded.to_four_bits() is rounded
    odd = QuantizedMatrix(encode_rows(numbers[:, :40], "f16"), "f16", 40)
    assert odd.to_four_bits() is odd, "its rows cannot be divided into blocks of 32"


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
            head=HeadWeights.quantize(*(np.full(m.shape, np.nan) for m in vars(random_head(0)).values())),
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
