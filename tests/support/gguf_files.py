"""GGUF files of other kinds than models that write text, and split models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from pass_edge.native.tiny_model import write_tiny_model


def write_file(
    path: Path, architecture: str, keys: Mapping[str, Any], tensors: Sequence[str] = ("token_embd.weight",)
) -> Path:
    """Write a GGUF file of an ``architecture`` with ``keys`` and ``tensors``, all of the same small size."""
    writer = GGUFWriter(path, architecture)
    for key, value in keys.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            str: writer.add_string,
            list: writer.add_array,
        }[type(value)]
        add(key, value)
    for name in tensors:
        writer.add_tensor(name, np.ones((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_split_model(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, empty_first: bool, **options: Any
) -> list[Path]:
    """Write a tiny model in pieces of few tensors beside ``path``, and return the pieces.

    ``empty_first``: the first piece has metadata only."""
    split = partial(GGUFWriter, split_max_tensors=6, small_first_shard=empty_first)
    with monkeypatch.context() as patch:
        patch.setattr("pass_edge.native.tiny_model.GGUFWriter", split)
        write_tiny_model(path, **options)
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))
