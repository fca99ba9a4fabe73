"""Rows of token embeddings are those that llama.cpp looks up, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.native.quantize import quantize
from pass_edge.native.tiny_model import write_tiny_model


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
