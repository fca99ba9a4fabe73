"""Our kernels for passes over few tokens: llama.cpp's bits, and what the numbers should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pass_edge.native.gguf_file import type_traits
from pass_edge.native.library import GGML_TYPES, kernels
from pass_edge.native.stored import decode_rows, encode_rows

from .products import HEADS, TOKENS, Floats, Products, cases, layouts

CASES = {name: (type_name, matrix, activations) for name, type_name, matrix, activations in cases()}


def exact(matrix: Floats, type_name: str, activations: Floats) -> npt.NDArray[np.float64]:
    """(tokens, rows): the products of the weights with the activations as ggml rounds these to eight bits, in
    blocks of 32 or, for K-quants, of 256."""
    data, width = encode_rows(matrix, type_name), matrix.shape[1]
    weights = decode_rows(data, type_name, width).astype(np.float64)
    blocks = activations.reshape(len(activations), -1, type_traits(GGML_TYPES[type_name]).block_size)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    step = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    steps = np.rint(blocks / step).astype(np.float64)
    values = steps * (step.astype(np.float16) if blocks.shape[2] == 32 else step)
    products = values.reshape(activations.shape) @ weights.T
    if type_name == "q4_1":  # the minima are multiplied by sums of their own, in float16
        minima = (
            data.reshape(len(data), -1, 20)[:, :, 2:4].copy().view(np.float16)[:, :, 0].astype(np.float64)
        )
        sums = (step[:, :, 0] * steps.sum(axis=2)).astype(np.float16)
        products += (sums - values.sum(axis=2)) @ minima.T
    return products


@pytest.mark.parametrize("name", CASES)
def test_products_are_what_numpy_says(name: str) -> None:
    type_name, matrix, activations = CASES[name]
    wanted = exact(matrix, type_name, activations)
    # a value halfway between two steps may be rounded either way
    slack = 1e-4 * np.abs(wanted).max(axis=1, keepdims=True)
    for repack in layouts(type_name, len(matrix)):
        products = Products(matrix, type_name, repack=repack)
        for count in (1, 2, 3, 5, 8, 32):
            off = np.abs(products.of(activations[:count]) - wanted[:count])
            assert (off <= slack[:count]).all(), (repack, count)
        products.close()


@pytest.mark.skipif(not kernels(), reason="this build has llama.cpp's kernels only")
def test_our_kernels_give_the_bits_of_llama_cpp_s(tmp_path: Path) -> None:
    found = []
    for switch in ("0", "1"):
        out = tmp_path / f"{switch}.npz"
        environment = {**os.environ, "PASS_EDGE_KERNELS": switch, "GGML_CPU_TILED_MM": "0"}
        command = [sys.executable, "-m", "tests.products", str(out)]
        subprocess.run(command, env=environment, check=True)
        found.append(np.load(out))
    theirs, ours = found
    assert len(ours.files) > len(CASES) + 2 * len(HEADS)
    for name in theirs.files:
        assert (theirs[name] == ours[name]).all(), name


@pytest.mark.skipif(not kernels(), reason="this build has llama.cpp's kernels only")
@pytest.mark.parametrize("name", [name for name in CASES if "q5_k" not in name and "19x" not in name])
def test_tokens_get_the_same_bits_in_any_company(name: str) -> None:
    type_name, matrix, activations = CASES[name]
    for repack in layouts(type_name, len(matrix)):
        products = Products(matrix, type_name, repack=repack)
        alone = np.concatenate([products.of(row[None]) for row in activations])
        for count in TOKENS:
            if count <= 32:
                assert (products.of(activations[:count]) == alone[:count]).all(), (repack, count)
        products.close()
