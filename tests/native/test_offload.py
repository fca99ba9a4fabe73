"""Layers go to the GPU as far as its free memory goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pass_edge import Engine, LibraryError, Settings
from pass_edge.native import gpu_offload
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.devices import Device, can_offload
from pass_edge.native.gguf_file import Tensor
from pass_edge.native.model import ALL_LAYERS, Model

GIB = 1 << 30


def tensor(name: str, size: int, rows: int = 1) -> Tensor:
    return Tensor(name, 0, (rows, 1), 0, size)


MODEL = [
    tensor("token_embd.weight", 50),
    tensor("output.weight", 100),
    *(tensor(f"blk.{i}.ffn_up.weight", 30) for i in range(3)),
    *(tensor(f"blk.{i}.attn_k.weight", 10, rows=1) for i in range(3)),
]
"""An output of 100 bytes and three layers of 40, with 2 bytes more for each cell."""


@pytest.mark.parametrize(
    ("room", "layers"),
    [(-5, 0), (99, 0), (100, 1), (160, 2), (279, 3), (280, ALL_LAYERS), (9999, ALL_LAYERS)],
)
def test_the_output_and_then_the_last_layers_fit(room: int, layers: int) -> None:
    assert gpu_offload.layers_within(room, MODEL, cells=10) == layers


def test_a_tied_model_has_a_copy_of_its_embeddings_on_the_device() -> None:
    tied = [tensor("token_embd.weight", 50), tensor("blk.0.ffn_up.weight", 30)]
    assert gpu_offload.layers_within(79, tied, cells=10) == 1
    assert gpu_offload.layers_within(80, tied, cells=10) == ALL_LAYERS


@pytest.mark.parametrize(("free", "layers"), [(GIB // 2, 0), (8 * GIB, ALL_LAYERS)])
def test_free_memory_decides(
    free: int, layers: int, monkeypatch: pytest.MonkeyPatch, model_path: Path
) -> None:
    card = Device("CUDA0", "Some card", "gpu", free, 8 * GIB)
    shared = Device("Vulkan0", "Some chip", "igpu", 99 * GIB, 99 * GIB)
    monkeypatch.setattr(gpu_offload, "can_offload", lambda: True)
    monkeypatch.setattr(gpu_offload, "devices", lambda: [card, shared])
    assert gpu_offload.fitting_layers(model_path, 4096) == layers


@pytest.mark.parametrize("works", [True, False])
def test_a_gpu_that_fails_is_left_alone(
    works: bool, monkeypatch: pytest.MonkeyPatch, tiny_path: Path
) -> None:
    monkeypatch.setattr(
        "pass_edge.engine_setup.loaded_model.with_fitting_layers",
        lambda s, _: replace(s, gpu_layers=ALL_LAYERS),
    )
    monkeypatch.setattr("pass_edge.engine_setup.loaded_model.can_offload", lambda: True)
    monkeypatch.setattr("pass_edge.engine_setup.loaded_model.gpu_verdict", lambda _: works)
    with Engine(tiny_path, settings=Settings(schedule="plain")) as engine:
        assert engine.settings.gpu_layers == (ALL_LAYERS if works else 0)
        assert any("fails on the GPU" in note for note in engine.notes) != works
    if not works:
        with pytest.raises(LibraryError, match="--gpu-layers 0"):
            Engine(tiny_path, settings=Settings(schedule="plain", gpu_layers=ALL_LAYERS))


@pytest.mark.parametrize(
    ("can_offload", "kind"), [(False, "gpu"), (True, "cpu")], ids=["library without GPUs", "no GPU"]
)
def test_without_a_gpu_nothing_is_offloaded(
    can_offload: bool, kind: str, monkeypatch: pytest.MonkeyPatch, tiny_path: Path
) -> None:
    monkeypatch.setattr(gpu_offload, "can_offload", lambda: can_offload)
    monkeypatch.setattr(gpu_offload, "devices", lambda: [Device("X", "Some device", kind, 8 * GIB, 8 * GIB)])
    assert gpu_offload.fitting_layers(tiny_path, 4096) == 0


@pytest.mark.skipif(not can_offload(), reason="here is no GPU")
def test_the_gpu_gives_about_the_logits_of_the_cpu(tiny_path: Path) -> None:
    logits = []
    for layers in (0, ALL_LAYERS):
        settings = ContextSettings(cells=64, flash_attention=None)
        with Model(tiny_path, gpu_layers=layers) as model, Context(model, settings) as context:
            context.decode_tokens(rows_of_sequence(0, 40, outputs=40), np.arange(40, dtype=np.int32) % 12)
            logits.append(context.logits(40).copy())
    np.testing.assert_allclose(*logits, atol=0.2)  # from -6 to 4; activations may be rounded to half the bits
    assert (logits[0] != logits[1]).any(), "both have computed on one device"
