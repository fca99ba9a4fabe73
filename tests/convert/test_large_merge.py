"""Merging a model of 4 GB takes little memory and the time of a copy."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pass_edge import Lookahead, write_sidecar
from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.gguf_file import GgufFile, NewTensor, Tensor, type_traits, write_gguf
from pass_edge.native.library import GGML_TYPES
from pass_edge.native.tiny_model import write_tiny_model
from tests.support.memory import MIB, child

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it"
)

MERGE = """
import sys
from pass_edge.__main__ import main
main(["merge", *sys.argv[1:]], standalone_mode=False)
print(memory("VmHWM"))
"""
# sizes of a tiny model, and of a large one in their place
GROWN = {96: 32_000, 32: 4096, 64: 11_008, 1: 1}
LAYERS = 18


@pytest.mark.slow
def test_a_merge_of_4_gb_takes_little_memory_and_the_time_of_a_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, merged, copy = (tmp_path / f"{name}.gguf" for name in ("model", "merged", "copy"))
    try:
        write_large_model(model, tmp_path / "tiny.gguf")
        flush(model)  # what is still to be written would slow the copy
        base, size = read_base(model), model.stat().st_size
        write_sidecar(Lookahead(np.ones((4, base.n_embd), np.float32), base), tmp_path / "l.pass.gguf")
        copying = seconds(lambda: (shutil.copyfile(model, copy), flush(copy)))
        copy.unlink()
        peaks: list[int] = []
        arguments = (MERGE, model, tmp_path / "l.pass.gguf", "-o", merged)
        merging = seconds(lambda: (peaks.append(int(child(*arguments))), flush(merged)))
        with capsys.disabled():
            print(f"\n{size / 1e9:.2f} GB: copied in {copying:.1f} s; ", end="")
            print(f"merged in {merging:.1f} s with {peaks[0] / 1e6:.0f} MB at most")
        assert size > 4e9
        assert merged.stat().st_size > size
        assert peaks[0] < 300e6  # libraries and what is mapped of the file included
        assert merging < 4 * copying + 5  # the five to start a process and to have it check the file
    finally:
        for path in (model, merged, copy):
            path.unlink(missing_ok=True)


def write_large_model(path: Path, tiny: Path) -> None:
    write_tiny_model(tiny, n_vocab=96, n_embd=32, n_ff=64, n_head=1, n_layer=LAYERS)
    sizes = {"vocab_size": 32_000, "embedding_length": 4096, "feed_forward_length": 11_008}
    heads = {"attention.head_count": 32, "attention.head_count_kv": 32, "rope.dimension_count": 128}
    metadata = {f"llama.{key}": size for key, size in (sizes | heads).items()}
    with GgufFile(tiny) as file:
        write_gguf(path, metadata, [grown(tensor) for tensor in file.tensors.values()], like=file)


def grown(tensor: Tensor) -> NewTensor:
    """Random numbers in its place: Q8_0 for matrices, F32 for vectors."""
    rows, width = shape = tuple(GROWN[size] for size in tensor.shape)
    code = GGML_TYPES["q8_0" if rows > 1 else "f32"]
    traits = type_traits(code)
    size = rows * (width // traits.block_size) * traits.type_size
    return NewTensor(tensor.name, code, shape, partial(random_bytes, size))


def random_bytes(count: int) -> Iterator[memoryview]:
    """The same few MiB again and again: drawing 4 GB would take longer than the test."""
    block = memoryview(np.random.default_rng(0).bytes(8 * MIB))
    while count:
        yield block[:count]
        count -= min(count, len(block))


def flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
