"""Write Llama models of real shapes with random weights: blocks of random bytes with realistic scales.

    python benchmarks/random_llama.py 1.1B Q4_0 random.gguf

A pass over such a model costs as much as a real model's. Its text is meaningless, so only passes are
measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGUFWriter
from gguf import GGMLQuantizationType as Type

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama model. ``tied``: the output matrix is the token embedding matrix. ``n_expert``: of
    a mixture, whose tokens get ``n_used`` of these experts each, ``n_ff`` wide; 0 if it is none."""

    n_embd: int
    n_layer: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    tied: bool
    n_expert: int = 0
    n_used: int = 0


SHAPES = {
    "0.02B": Shape(512, 4, 1536, 8, 4, 8192, True),  # for tests
    "1B": Shape(2048, 16, 8192, 32, 8, 128256, True),
    "1.1B": Shape(2048, 22, 5632, 32, 4, 32000, False),
    "3B": Shape(3072, 28, 8192, 24, 8, 128256, True),
    "8B": Shape(4096, 32, 14336, 32, 8, 128256, False),
    "0.02B-experts": Shape(256, 2, 256, 4, 2, 8192, True, 8, 2),  # for tests
    "7B-experts": Shape(2048, 16, 1024, 16, 16, 50304, False, 64, 8),
}
"""Shapes of Llama 3.2 and 3.1; 1.1B is TinyLlama's; 7B-experts has OLMoE's sizes (1.3 billion weights a
token)."""

FILE_TYPES = {
    "Q4_0": (Type.Q4_0, Type.Q4_0, Type.Q6_K),
    "Q4_K_M": (Type.Q4_K, Type.Q6_K, Type.Q6_K),
    "Q8_0": (Type.Q8_0, Type.Q8_0, Type.Q8_0),
}
"""llama.cpp's types for most matrices, for those that get more bits in some layers, and for the output."""

_SCALES = {
    # offset of the half-precision scale in a block, and standard deviation of the block's integers
    Type.Q4_0: (0, 4.6),
    Type.Q8_0: (0, 74.0),
    Type.Q4_K: (0, 258.0),
    Type.Q6_K: (208, 1369.0),
}
_Q4_K_MINIMUM = (
    2  # offset of the scale of minima in a Q4_K block: 7.5 times the other scale centres it on zero
)


def random_blocks(rng: np.random.Generator, kind: Type, rows: int, width: int) -> Bytes:
    """Return a random (rows, width) matrix that preserves the norm of vectors, in blocks of ``kind``: (rows,
    bytes per row)."""
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * width // elements, size), np.uint8)
    offset, deviation = _SCALES[kind]
    scale = width**-0.5 / deviation
    blocks[:, offset : offset + 2] = _half(scale)
    if kind == Type.Q4_K:
        blocks[:, _Q4_K_MINIMUM : _Q4_K_MINIMUM + 2] = _half(7.5 * scale)
    return blocks.reshape(rows, -1)


def _half(value: float) -> Bytes:
    return np.array([value], np.float16).view(np.uint8)


def write_random_llama(path: Path, shape: Shape, file_type: str) -> Path:
    """Write a model of ``shape`` in ``file_type``, one of FILE_TYPES. All layers share the same bytes, so
    writing needs little memory."""
    rng = np.random.default_rng(0)
    base, better, output = FILE_TYPES[file_type]
    writer = GGUFWriter(path, "llama")
    _describe(writer, shape)
    matrices: dict[tuple[Type, int, int], Bytes] = {}

    def add(name: str, kind: Type, rows: int, width: int, n_expert: int = 0) -> None:
        key = (kind, max(1, n_expert) * rows, width)
        if key not in matrices:
            matrices[key] = random_blocks(rng, *key)
        blocks = matrices[key]
        if n_expert:
            name, blocks = f"{name}_exps", blocks.reshape(n_expert, rows, -1)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.n_embd, np.float32))

    d, kv = shape.n_embd, shape.n_embd // shape.n_head * shape.n_head_kv
    add("token_embd", output if shape.tied else base, shape.n_vocab, d)
    add_norm("output_norm")
    if not shape.tied:
        add("output", output, shape.n_vocab, d)
    for i in range(shape.n_layer):
        # llama.cpp's rule: the first and last eighth of the layers, and each third between
        first, last = shape.n_layer // 8, 7 * shape.n_layer // 8
        mixed = better if i < first or i >= last or (i - first) % 3 == 2 else base
        block = f"blk.{i}."
        for norm in ("attn_norm", "ffn_norm"):
            add_norm(block + norm)
        for part, kind, *sizes in (
            ("attn_q", base, d, d),
            ("attn_k", base, kv, d),
            ("attn_v", mixed, kv, d),
            ("attn_output", base, d, d),
            ("ffn_gate", base, shape.n_ff, d, shape.n_expert),
            ("ffn_up", base, shape.n_ff, d, shape.n_expert),
            ("ffn_down", mixed, d, shape.n_ff, shape.n_expert),
        ):
            add(block + part, kind, *sizes)
        if shape.n_expert:
            router = rng.standard_normal((shape.n_expert, d), np.float32)
            writer.add_tensor(f"{block}ffn_gate_inp.weight", router)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_name("random llama")
    writer.add_context_length(16384)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(shape.n_used)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_tokenizer_model("no_vocab")


@click.command(help=__doc__)
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("file_type", type=click.Choice(list(FILE_TYPES)))
@click.argument("path", type=click.Path(path_type=Path))
def main(shape: str, file_type: str, path: Path) -> None:
    write_random_llama(path, SHAPES[shape], file_type)


if __name__ == "__main__":
    main()
