"""A child process finds out whether the library crashes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass_edge.native import library_probe
from pass_edge.native.batch import Rows
from pass_edge.native.context import Context
from pass_edge.native.model import ALL_LAYERS, Model


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


def test_the_child_that_is_started_by_default_ends_well() -> None:
    assert library_probe.gpu_works(), "without a GPU it decodes on the CPU"


@pytest.mark.parametrize(
    ("how", "repack", "layers"), [("repack", True, 0), ("plain", False, 0), ("gpu", False, ALL_LAYERS)]
)
def test_the_child_decodes_a_tiny_model_in_each_type(
    how: str, repack: bool, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, decoded = [], []
    load, decode = Model.__init__, Context.decode_tokens

    def load_and_note(self: Model, path: Path, **options: Any) -> None:
        loaded.append((path.stem, options))
        load(self, path, **options)

    def decode_and_note(self: Context, rows: Rows, tokens: np.ndarray) -> None:
        decoded.append(len(tokens))
        decode(self, rows, tokens)

    monkeypatch.setattr(Model, "__init__", load_and_note)
    monkeypatch.setattr(Context, "decode_tokens", decode_and_note)
    library_probe._decode_all_types(how)
    options = {"repack": repack, "gpu_layers": layers}
    assert loaded == [(file_type, options) for file_type in ("Q4_0", "Q8_0", "Q4_K_M")]
    assert decoded == [1, 2, 4, 8, 32, 1] * 3


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_the_child_dies_of_logits_that_are_no_numbers(logit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "logits", lambda *_: np.array([[0, logit]], np.float32))
    with pytest.raises(AssertionError):
        library_probe._decode_all_types("plain")
