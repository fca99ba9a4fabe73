"""The native layer: tokens in and out, exact embeddings, saved sequences, the library probe."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pass_edge import LibraryError, ModelError
from pass_edge.calibration.calibration import library_verdict
from pass_edge.native import library_probe
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.compute import compute
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.devices import devices
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.native.vocabulary import Detokenizer


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(model_path)


def test_text_survives_tokens(model: Model) -> None:
    text = "Grüße, 世界! 🦙\n\tdef f(x): return x**2"
    tokens = model.vocabulary.tokenize(text)
    detokenizer = Detokenizer(model.vocabulary)
    assert "".join(detokenizer.feed([t]) for t in tokens.tolist()) + detokenizer.finish() == text


def test_control_tokens_are_read_only_where_asked(model: Model) -> None:
    vocabulary = model.vocabulary
    assert len(vocabulary.tokenize("<|im_end|>", parse_special=True)) == 1
    assert len(vocabulary.tokenize("<|im_end|>")) > 1
    assert vocabulary.is_end(int(vocabulary.tokenize("<|im_end|>", parse_special=True)[0]))


@pytest.mark.parametrize("file_type", ["Q4_1", "Q4_0", "Q8_0", "Q4_K_M"])
def test_embedding_batches_give_the_bits_of_token_batches(
    file_type: str, quantized: Callable[[str], Path]
) -> None:
    with Model(quantized(file_type)) as model, Context(model, ContextSettings(cells=256)) as context:
        tokens = np.arange(100, 120, dtype=np.int32)
        rows = rows_of_sequence(0, len(tokens), outputs=1)
        context.decode_tokens(rows, tokens)
        by_tokens = context.logits(1).copy()
        context.clear()
        context.decode_embeddings(rows, TokenEmbeddings(model.path).rows(tokens))
        np.testing.assert_array_equal(context.logits(1), by_tokens)


# a file type whose token embeddings are of the tensor type beside it
EMBEDDING_TYPES = {
    "F32": "f32", "F16": "f16", "BF16": "bf16", "Q4_0": "q4_0", "Q4_1": "q4_1", "Q5_0": "q5_0",
    "Q5_1": "q5_1", "Q8_0": "q8_0", "Q4_K_S": "q4_K", "Q5_K_S": "q5_K", "Q6_K": "q6_K",
}  # fmt: skip


@pytest.mark.parametrize("file_type", EMBEDDING_TYPES)
def test_rows_of_every_common_type_are_those_that_llama_cpp_looks_up(file_type: str, tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "f32.gguf", n_vocab=40, n_layer=1, seed=5)
    quantize(source, tmp_path / "x.gguf", file_type)
    tokens = np.arange(40, dtype=np.int32)
    rows = rows_of_sequence(0, 40, outputs=40)
    with Model(tmp_path / "x.gguf") as model, Context(model, ContextSettings(cells=64)) as context:
        embeddings = TokenEmbeddings(model.path)
        assert embeddings.type_name == EMBEDDING_TYPES[file_type]
        context.decode_tokens(rows, tokens)
        looked_up = context.logits(40).copy()
        context.clear()
        context.decode_embeddings(rows, embeddings.rows(tokens))
        assert context.logits(40).tobytes() == looked_up.tobytes()


def test_a_saved_sequence_comes_back_bit_for_bit(tiny_path: Path) -> None:
    with Model(tiny_path) as model, Context(model, ContextSettings(cells=256)) as context:

        def next_logits() -> np.ndarray:
            context.decode_tokens(rows_of_sequence(9, 1, outputs=1), np.array([4], np.int32))
            return context.logits(1).copy()

        context.decode_tokens(rows_of_sequence(0, 9), np.arange(9, dtype=np.int32))
        state = context.save_sequence(0)
        before = next_logits()
        context.clear()
        context.restore_sequence(0, state)
        assert context.last_position(0) == 8
        np.testing.assert_array_equal(next_logits(), before)


def test_hidden_states_come_with_the_logits(tiny_path: Path) -> None:
    with Model(tiny_path) as model, Context(model, ContextSettings(cells=256)) as context:
        context.keep_hidden(True)
        context.decode_tokens(rows_of_sequence(0, 3, outputs=1), np.arange(3, dtype=np.int32))
        assert np.isfinite(context.hidden(3)).all()
        assert context.hidden(3).shape == (3, model.n_embd)
        assert context.logits(3).shape == (3, model.n_vocab)


def test_a_failed_quantization_leaves_no_file(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(tiny_path.read_bytes()[:5000])
    with pytest.raises((ModelError, LibraryError)):
        quantize(tmp_path / "cut.gguf", tmp_path / "out.gguf", "Q4_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.gguf"]


def test_there_is_a_cpu() -> None:
    assert any(device.kind == "cpu" for device in devices())


# -- a library that crashes ---------------------------------------------------------------------------


def child(repack: str, plain: str, gpu: str = "0") -> list[str]:
    signals = f"{{'repack': {repack}, 'plain': {plain}, 'gpu': {gpu}}}"
    code = f"import os, sys\nos.kill(os.getpid(), {signals}[sys.argv[1]])"
    return [sys.executable, "-c", code]


SEGFAULT, FINE = str(int(signal.SIGSEGV)), "0"  # signal 0 does nothing


def test_the_probe_survives_a_library_that_crashes() -> None:
    assert library_probe.probe(child(FINE, FINE)) == library_probe.WORKS
    assert library_probe.probe(child(SEGFAULT, FINE)) == library_probe.WORKS_WITHOUT_REPACKING
    assert library_probe.probe(child(SEGFAULT, SEGFAULT)) == library_probe.BROKEN
    assert library_probe.gpu_works(child(SEGFAULT, SEGFAULT))
    assert not library_probe.gpu_works(child(FINE, FINE, gpu=SEGFAULT))


def test_the_child_decodes_a_tiny_model() -> None:
    assert library_probe.gpu_works(), "without a GPU it decodes on the CPU"


def test_a_verdict_is_remembered_and_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PASS_EDGE_CACHE", str(tmp_path))
    notes: list[str] = []
    assert library_verdict(notes.append) == library_probe.WORKS
    assert library_verdict(notes.append) == library_probe.WORKS
    assert len(notes) == 1
    assert library_probe.check_verdict(library_probe.WORKS)
    assert not library_probe.check_verdict(library_probe.WORKS_WITHOUT_REPACKING)
    with pytest.raises(LibraryError, match="crashes on this machine"):
        library_probe.check_verdict(library_probe.BROKEN)


def test_a_damaged_memory_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PASS_EDGE_CACHE", str(tmp_path))
    library_verdict(lambda _: None)
    for file in tmp_path.iterdir():
        file.write_text("{")
    notes: list[str] = []
    assert library_verdict(notes.append) == library_probe.WORKS
    assert notes


# -- the one thread that computes -----------------------------------------------------------------------


def test_whoever_asks_one_thread_computes_and_a_child_has_its_own() -> None:
    found = [compute(threading.get_ident)]
    asking = threading.Thread(target=lambda: found.append(compute(threading.get_ident)))
    asking.start()
    asking.join()
    assert found[0] == found[1] != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        compute(lambda: 1 // 0)
    child = os.fork()
    if not child:
        os._exit(compute(lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


class TimeOverError(Exception):
    """What a program's own handler of a signal raises."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, TimeOverError])
def test_an_interrupt_waits_until_what_is_computed_is_done(raised: type[BaseException]) -> None:
    done: list[bool] = []

    def interrupt(*_: object) -> None:
        raise raised

    def work() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        done.append(True)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(raised):
            compute(work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done
