"""A loaded model's file does not stay in memory, and of an embedding matrix only the rows in use do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from pass_edge.native.gguf_file import type_traits
from pass_edge.native.library import kernels
from tests.support.memory import MIB, child

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it"
)


# -- weights that are laid out anew --------------------------------------------------------------------

LOAD = """
import sys
from pathlib import Path
from pass_edge.native.model import Model
before = memory("RssFile")
model = Model(Path(sys.argv[1]))
print(memory("RssFile") - before)
"""


@pytest.mark.skipif(not kernels(), reason="llama.cpp's kernels multiply by the file's own pages")
def test_a_loaded_models_file_is_not_kept_beside_its_weights(quantized: Callable[[str], Path]) -> None:
    path = quantized("Q4_0")
    assert int(child(LOAD, path)) < path.stat().st_size / 5


# -- rows of an embedding matrix ----------------------------------------------------------------------

READ_ROWS = """
import json, sys
import numpy as np
from pass_edge.native.embeddings import TokenEmbeddings
TokenEmbeddings(sys.argv[2]).rows(np.arange(8, dtype=np.int32))  # whatever is loaded at the first use
before = memory("RssAnon", "RssFile", "RssShmem")
embeddings = TokenEmbeddings(sys.argv[1])
rows = embeddings.rows(np.arange(0, 32_000, 500, dtype=np.int32))
print(json.dumps([memory("RssAnon", "RssFile", "RssShmem") - before, len(rows), embeddings.width]))
"""
FAULT = 1 << 16  # bytes that Linux maps around one that is touched


@pytest.mark.parametrize("type_name", ["F16", "Q4_0", "Q6_K"])
def test_a_large_embedding_matrix_costs_the_rows_in_use(
    type_name: str, tiny_path: Path, tmp_path: Path
) -> None:
    path = vocabulary_of_a_7b_model(tmp_path / "large.gguf", GGMLQuantizationType[type_name])
    used, rows, width = json.loads(child(READ_ROWS, path, tiny_path))
    assert (rows, width) == (64, 4096)
    assert used < rows * (4 * width + 2 * FAULT) + MIB < path.stat().st_size / 6


def vocabulary_of_a_7b_model(path: Path, kind: GGMLQuantizationType) -> Path:
    """A sparse file: it takes no space on the disk."""
    block, size = (traits := type_traits(kind)).block_size, traits.type_size
    bytes_a_row = 4096 // block * size
    writer = GGUFWriter(path, "llama")
    writer.add_vocab_size(32_000)
    shape, total = (32_000, bytes_a_row), 32_000 * bytes_a_row
    writer.add_tensor_info("token_embd.weight", shape, np.dtype(np.uint8), total, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + total + 32)
    return path
