"""Draft heads compute their formula, are read back as they were written, and change no text."""

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
from pass_edge.drafting.heads import Heads, quickest
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.devices import cpu_device, gpu_device
from pass_edge.native.draft_head import DraftHead, HeadWeights, OutputRows
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.quantized_matrix import QuantizedMatrix, encode_rows
from tests.support.lookaheads import N_VOCAB, WIDTH, lookahead_for, random_head

SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=1.5, seed=5))


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean() + 1e-6)


# eight rows at a time are what the fastest kernels take; others are multiplied as they are
@pytest.mark.parametrize("candidates", [[3, 1, 8], [3, 1, 8, 2, 0, 5, 7, 11]], ids=["three", "eight"])
@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("where", ["cpu", "gpu"])
def test_the_head_computes_its_formula(
    where: str, inputs: int, candidates: list[int], tiny_path: Path
) -> None:
    weights, rng = random_head(0, inputs=inputs), np.random.default_rng(1)
    state, embedding, before = told = [rng.standard_normal(WIDTH).astype(np.float32) for _ in range(3)]
    x = np.concatenate([rms(part) for part in told[:inputs]])
    gate, up, down = (matrix.to_four_bits().numbers() for matrix in (weights.gate, weights.up, weights.down))
    opened = (gate @ x) / (1 + np.exp(-(gate @ x))) * (up @ x)
    behind = state + down @ opened
    output_matrix, chosen = TokenEmbeddings(tiny_path).output, np.array(candidates, np.int32)
    rows = output_matrix.rows(chosen).to_four_bits()
    device = {"cpu": cpu_device, "gpu": gpu_device}[where]()
    if not device:
        pytest.skip("here is no GPU")
    with (
        OutputRows(output_matrix, chosen, device) as output,
        DraftHead(weights, output, threads=1) as head,
    ):
        for _ in range(2):  # nothing is left of the step before
            found, logits = head.step(state, embedding, before)
            # ggml rounds what it multiplies to eight bits
            np.testing.assert_allclose(found, behind, atol=0.015 * inputs)
            expected = rows.numbers() @ behind
            np.testing.assert_allclose(logits, expected, atol=0.03 * inputs)


def test_heads_are_computed_where_a_step_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[int | None, float] = {cpu_device(): 0.3, 77: 0.2}
    closed = []

    class Timed(Heads):
        def __init__(self, device: int | None = None) -> None:
            self.device = device or cpu_device()
            if device == 66:
                raise LibraryError("this device has no kernel")

        def seconds(self) -> float:
            return seconds[self.device]

        def close(self) -> None:
            closed.append(self.device)

    for gpu, expected in ((77, 77), (66, cpu_device()), (None, cpu_device())):
        monkeypatch.setattr("pass_edge.drafting.heads.gpu_device", lambda gpu=gpu: gpu)
        assert quickest(Timed).device == expected  # type: ignore[attr-defined]
    assert closed == [cpu_device()], "the slower one of two"


def test_a_step_takes_time(tiny_path: Path) -> None:
    lookahead = lookahead_for(tiny_path, hidden_head=random_head(2))
    heads = Heads(lookahead, TokenEmbeddings(tiny_path), threads=1)
    assert 0 < heads.seconds() < 1
    heads.close()


def test_four_bits_are_taken_where_they_are_fewer() -> None:
    numbers = np.random.default_rng(3).standard_normal((2500, 64)).astype(np.float32)
    exact = QuantizedMatrix(encode_rows(numbers, "f16"), "f16", 64)
    rounded = exact.to_four_bits()
    assert rounded.data.nbytes == 2500 * 64 * 4.5 / 8
    assert np.abs(rounded.numbers() - numbers).max() < np.abs(numbers).max() / 8, "sixteen steps, both signs"
    assert rounded.to_four_bits() is rounded
    odd = QuantizedMatrix(encode_rows(numbers[:, :40], "f16"), "f16", 40)
    assert odd.to_four_bits() is odd, "blocks of 32 do not divide its rows"


def test_what_is_written_is_read_back_as_it_is_computed(tiny_path: Path, tmp_path: Path) -> None:
    prefix = np.ones((3, WIDTH), np.float32)
    given = lookahead_for(tiny_path, head=random_head(1, inputs=3), hidden_head=random_head(2), prefix=prefix)
    write_sidecar(given, tmp_path / "x.pass.gguf")
    merge(tiny_path, tmp_path / "x.pass.gguf", tmp_path / "merged.gguf")
    once = read_lookahead(tmp_path / "x.pass.gguf")
    write_sidecar(once, tmp_path / "y.pass.gguf")
    for again in (read_lookahead(tmp_path / "y.pass.gguf"), read_lookahead(tmp_path / "merged.gguf")):
        assert again.prefix is not None
        np.testing.assert_array_equal(again.prefix, prefix)
        np.testing.assert_array_equal(again.candidates, given.candidates)
        for name in ("head", "hidden_head"):
            for part in ("gate", "up", "down"):
                found, expected = (getattr(getattr(some, name), part) for some in (again, given))
                assert found.type_name == expected.type_name == "q8_0"
                np.testing.assert_array_equal(found.data, expected.data)


def test_a_head_alone_can_be_merged_too(tiny_path: Path, tmp_path: Path) -> None:
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
def test_heads_leave_the_text_alone(sources: str, sampling: Sampling, tiny_path: Path) -> None:
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
