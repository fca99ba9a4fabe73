"""A merged file drafts as the sidecar does, and other programs run it as the plain model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pass_edge import (
    Engine,
    Lookahead,
    LookaheadError,
    ModelError,
    OutputError,
    Sampling,
    Settings,
    write_sidecar,
)
from pass_edge.convert.inspection import inspect
from pass_edge.convert.merge import merge
from pass_edge.drafting.lookahead_file import WEIGHT, read_base, read_lookahead
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.gguf_file import GgufFile, NewTensor, write_gguf
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model
from tests.support.lookaheads import default_sidecar

SHIPPED = default_sidecar()
QUESTION = [{"role": "user", "content": "Why do cats purr?"}]


def sidecar_for(model: Path, count: int = 3) -> Path:
    base = read_base(model)
    rows = np.random.default_rng(0).standard_normal((count, base.n_embd)).astype(np.float32)
    write_sidecar(Lookahead(rows, base), model.with_suffix(".pass.gguf"))
    return model.with_suffix(".pass.gguf")


def answer(
    model: Path, lookahead: Path | str | None, temperature: float, prompt: str | None = None
) -> tuple[list[int], list[float]]:
    """Return the ids after ``prompt``, or after QUESTION, and the acceptance by depth."""
    with Engine(model, lookahead=lookahead, settings=Settings(schedule="fused")) as engine:
        ids = engine.tokenize(prompt) if prompt else engine.render(QUESTION)
        sampling = Sampling(temperature=temperature, seed=7)
        generation = engine.stream(ids, sampling=sampling, max_tokens=60).run()
        assert engine.schedule == ("plain" if lookahead is None else "fused")
        return generation.ids, generation.stats.acceptance


def assert_drafts_as_base_and_sidecar(
    merged: Path, base: Path, sidecar: Path, temperature: float, prompt: str | None = None
) -> None:
    ids, acceptance = answer(base, sidecar, temperature, prompt)
    assert answer(merged, "auto", temperature, prompt) == (ids, acceptance)
    assert sum(acceptance) > 0
    assert answer(merged, None, temperature, prompt)[0] == ids


@pytest.mark.parametrize(
    "file_type",
    [
        "Q4_1",
        pytest.param("Q4_0", marks=pytest.mark.slow),
        pytest.param("Q8_0", marks=pytest.mark.slow),
        pytest.param("Q4_K_M", marks=pytest.mark.slow),
    ],
)
def test_merged_is_base_and_sidecar(file_type: str, quantized: Callable[[str], Path], tmp_path: Path) -> None:
    base, merged = quantized(file_type), tmp_path / "merged.gguf"
    merge(base, SHIPPED, merged)
    for temperature in (0.0, 1.5):
        assert_drafts_as_base_and_sidecar(merged, base, SHIPPED, temperature)
    assert read_lookahead(merged).embeddings.tobytes() == read_lookahead(SHIPPED).embeddings.tobytes()


def test_no_text_is_read_as_a_lookahead_token_and_none_is_accepted(model_path: Path, tmp_path: Path) -> None:
    merge(model_path, SHIPPED, tmp_path / "merged.gguf")
    with Engine(model_path) as plain, Engine(tmp_path / "merged.gguf") as engine:
        assert engine.model.n_vocab == engine.base.n_vocab + 16 == plain.model.n_vocab + 16
        text = "Say <|pass_lookahead_0|> and <|im_end|>."
        assert engine.tokenize(text) == plain.tokenize(text)
        assert engine.model.vocabulary.piece(engine.base.n_vocab) == b""
        with pytest.raises(Exception, match="outside the vocabulary"):
            engine.stream([engine.base.n_vocab])
        # not even where they are all that is likely
        unlikely = dict.fromkeys(range(engine.base.n_vocab), -1000.0)
        ids = engine.stream([1, 2], sampling=Sampling(logit_bias=unlikely), max_tokens=3).run().ids
        assert max(ids) < engine.base.n_vocab


IN_LLAMA_CPP_PYTHON = """
import sys, json
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=256, n_threads=2, verbose=False)
print(json.dumps(model(sys.argv[2], max_tokens=48, temperature=0)["choices"][0]["text"]))
"""
IN_XLLAMACPP = """
import sys, json, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.cpuparams.n_threads = sys.argv[1], 256, 2
server = xllamacpp.Server(params)
answer = server.handle_completions({"prompt": sys.argv[2], "max_tokens": 48, "temperature": 0})
print(json.dumps(answer["choices"][0]["text"]))
"""


def text_in(program: str, model: Path, prompt: str) -> str:
    command = [sys.executable, "-c", program, str(model), prompt]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("program", [IN_LLAMA_CPP_PYTHON, IN_XLLAMACPP], ids=["llama_cpp", "xllamacpp"])
def test_other_programs_run_it_as_the_plain_model(program: str, model_path: Path, tmp_path: Path) -> None:
    merge(model_path, SHIPPED, tmp_path / "merged.gguf")
    text = text_in(program, model_path, prompt := "Once upon a time, a small river")
    assert len(text) > 20
    assert text_in(program, tmp_path / "merged.gguf", prompt) == text


@pytest.mark.slow
def test_embeddings_that_the_model_scales(gemma_path: Path, tmp_path: Path) -> None:
    """Gemma multiplies rows of its matrix by √n_embd. Rows of common words are drafts of a kind."""
    sidecar, merged, prompt = tmp_path / "g.pass.gguf", tmp_path / "merged.gguf", "The capital of France is"
    with Engine(gemma_path, lookahead=None) as engine:
        words = np.array(engine.tokenize(" of the")[-2:], np.int32)
    own = TokenEmbeddings(gemma_path)
    assert own.scale == np.float32(640**0.5)
    write_sidecar(Lookahead(own.rows(words), read_base(gemma_path)), sidecar)
    merge(gemma_path, sidecar, merged)
    added = np.arange(262_144, 262_146, dtype=np.int32)
    np.testing.assert_allclose(TokenEmbeddings(merged).rows(added), own.rows(words), atol=0.1)
    for temperature in (0.0, 0.8):
        assert_drafts_as_base_and_sidecar(merged, gemma_path, sidecar, temperature, prompt)
    text = text_in(IN_LLAMA_CPP_PYTHON, gemma_path, prompt)
    assert len(text) > 20
    assert text_in(IN_LLAMA_CPP_PYTHON, merged, prompt) == text


# a file type whose token embeddings are of that type
@pytest.mark.parametrize(
    "file_type",
    ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K_S", "Q5_K_S", "Q6_K"],
)
def test_all_tensors_without_new_rows_are_copied_byte_for_byte(file_type: str, tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "f32.gguf", n_vocab=40, n_layer=1)
    base, merged = tmp_path / "base.gguf", tmp_path / "merged.gguf"
    quantize(source, base, file_type)
    sidecar = sidecar_for(base)
    merge(base, sidecar, merged)
    before, after = contents(base), contents(merged)
    assert after.keys() == before.keys()
    for name, data in before.items():
        assert after[name].startswith(data)
        assert (after[name] == data) == (name not in ("token_embd.weight", "output.weight"))
    own, rows = TokenEmbeddings(merged), read_lookahead(sidecar).embeddings
    error = np.abs(own.rows(np.arange(40, 43, dtype=np.int32)) - rows).max()
    assert error < {"F": 0.01, "BF": 0.01}.get(file_type.rstrip("0123456789"), 0.5)
    assert read_lookahead(merged).embeddings.tobytes() == rows.tobytes()


def test_an_output_bias_grows_too(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pass_edge.convert.merge.check_loads", lambda _: None)  # llama has no such bias
    numbers = np.arange(12, dtype=np.float32)
    with GgufFile(tiny_path) as file:
        bias = NewTensor("output.bias", 0, (1, 12), lambda: [numbers])
        write_gguf(tmp_path / "biased.gguf", {}, [*copied(file), bias], like=file)
    merge(tmp_path / "biased.gguf", sidecar_for(tmp_path / "biased.gguf"), tmp_path / "m.gguf")
    grown = np.frombuffer(contents(tmp_path / "m.gguf")["output.bias"], np.float32)
    assert grown.tolist() == numbers.tolist() + [11.0] * 16  # no token is known to be useless: the last


def copied(file: GgufFile) -> list[NewTensor]:
    return [
        NewTensor(tensor.name, tensor.code, tensor.shape, partial(file.chunks, tensor))
        for tensor in file.tensors.values()
    ]


def contents(path: Path) -> dict[str, bytes]:
    with GgufFile(path) as file:
        return {name: b"".join(map(bytes, file.chunks(tensor))) for name, tensor in file.tensors.items()}


def test_the_embedding_matrix_in_another_type(tiny_path: Path, tmp_path: Path) -> None:
    sidecar = sidecar_for(tiny_path)
    merge(tiny_path, sidecar, tmp_path / "m.gguf", embedding_type="F32")
    tokens = np.arange(12, dtype=np.int32)
    own, base = TokenEmbeddings(tmp_path / "m.gguf"), TokenEmbeddings(tiny_path)
    assert own.type_name == "f32"
    assert own.rows(tokens).tobytes() == base.rows(tokens).tobytes()
    rows = read_lookahead(sidecar).embeddings
    assert own.rows(np.arange(12, 15, dtype=np.int32)).tobytes() == rows.tobytes()
    for absurd in ("q9_9", "q4_k"):  # unknown; in blocks of 256, where rows have 64
        with pytest.raises(ModelError, match="--embedding-type"):
            merge(tiny_path, sidecar, tmp_path / "n.gguf", embedding_type=absurd)
    assert not (tmp_path / "n.gguf").exists()
    sidecar.unlink()


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(tiny_path: Path, tmp_path: Path) -> None:
    sidecar, merged = sidecar_for(tiny_path), tmp_path / "m.gguf"
    merge(tiny_path, sidecar, merged)
    with pytest.raises(OutputError, match="exists"):
        merge(tiny_path, sidecar, merged)
    with pytest.raises(LookaheadError, match="inside already"):
        merge(merged, sidecar, tmp_path / "n.gguf")
    with pytest.raises(LookaheadError, match="does not fit"):
        merge(tiny_path, SHIPPED, tmp_path / "n.gguf")
    sidecar.unlink()
    with GgufFile(tiny_path) as file:  # llama.cpp refuses what it would refuse later: a tensor too many
        extra = NewTensor("strange.weight", 0, (1, 2), lambda: [bytes(8)])
        write_gguf(tmp_path / "strange.gguf", {}, [*copied(file), extra], like=file)
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load"):
        merge(tmp_path / "strange.gguf", sidecar_for(tmp_path / "strange.gguf"), tmp_path / "n.gguf")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"m.gguf", "strange.gguf", "strange.pass.gguf"}


def test_names_of_lookahead_tokens_that_exist_are_refused(model_path: Path, tmp_path: Path) -> None:
    with GgufFile(model_path) as file:
        tokens = file.get("tokenizer.ggml.tokens")
        assert isinstance(tokens, list)
        tokens[100] = b"<|pass_lookahead_3|>"
        write_gguf(tmp_path / "x.gguf", {"tokenizer.ggml.tokens": tokens}, copied(file), like=file)
    with pytest.raises(ModelError, match=r"tokens named <\|pass_lookahead_3\|>"):
        merge(tmp_path / "x.gguf", sidecar_for(tmp_path / "x.gguf"), tmp_path / "m.gguf")


def test_inspect_knows_a_merged_file(tiny_path: Path, tmp_path: Path) -> None:
    sidecar, merged = sidecar_for(tiny_path), tmp_path / "m.gguf"
    merge(tiny_path, sidecar, merged)
    report = inspect([merged, sidecar])
    assert report["files"][0]["kind"] == "merged model"
    assert report["files"][0]["base"] == report["files"][1]["base"]
    assert report["pairs"][0]["fits"]
    assert WEIGHT == "pass.lookahead.weight"
    sidecar.unlink()
