"""Our kernels: what the numbers should be, and that a token's bits do not depend on its company."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pass_edge.native.library import kernels
from pass_edge.native.stored import decode_rows, encode_rows

from .products import HEADS, SUPERBLOCKS, TOKENS, TYPES, Floats, Products, cases

pytestmark = pytest.mark.skipif(not kernels(), reason="this build has llama.cpp's kernels only")
CASES = {name: (type_name, matrix, activations) for name, type_name, matrix, activations in cases()}


def exact(matrix: Floats, type_name: str, activations: Floats) -> npt.NDArray[np.float64]:
    """(tokens, rows): the products of the weights with the activations rounded to eight bits, in blocks of 32
    or, for K-quants, of 256."""
    width = matrix.shape[1]
    weights = decode_rows(encode_rows(matrix, type_name), type_name, width).astype(np.float64)
    blocks = activations.reshape(len(activations), -1, 256 if type_name in SUPERBLOCKS else 32)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    step = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    values = np.rint(blocks / step).astype(np.float64) * step
    return values.reshape(activations.shape) @ weights.T


@pytest.mark.parametrize("name", CASES)
def test_products_are_what_numpy_says(name: str) -> None:
    type_name, matrix, activations = CASES[name]
    wanted = exact(matrix, type_name, activations)
    # a value halfway between two steps may be rounded either way
    slack = 1e-4 * np.abs(wanted).max(axis=1, keepdims=True)
    products = Products(matrix, type_name)
    for count in (1, 2, 3, 5, 8, 32, 70):
        off = np.abs(products.of(activations[:count]) - wanted[:count])
        assert (off <= slack[:count]).all(), count
    products.close()


@pytest.mark.parametrize("name", CASES)
def test_tokens_get_the_same_bits_in_any_company(name: str) -> None:
    type_name, matrix, activations = CASES[name]
    products = Products(matrix, type_name)
    alone = np.concatenate([products.of(row[None]) for row in activations])
    for count in TOKENS:
        assert (products.of(activations[:count]) == alone[:count]).all(), count
        assert (products.of(activations[-count:]) == alone[-count:]).all(), count
    products.close()


@pytest.mark.parametrize("type_name", TYPES)
def test_experts_products_are_those_of_their_matrices(type_name: str) -> None:
    rng = np.random.default_rng(5)
    n_experts, rows, width, tokens, chosen = 5, 36, 512, 40, 3
    matrices = rng.standard_normal((n_experts, rows, width), np.float32)
    shared = rng.standard_normal((tokens, width), np.float32)
    apart = rng.standard_normal((tokens, chosen, width), np.float32)
    # the last expert is nobody's
    experts = np.argsort(rng.random((tokens, n_experts - 1)), axis=1)[:, :chosen].astype(np.int32)
    mixture = Products(matrices, type_name)
    found = mixture.of_experts(shared, experts), mixture.of_experts(apart, experts)
    for expert in range(n_experts):
        alone = Products(matrices[expert], type_name)
        token, place = np.nonzero(experts == expert)
        if len(token):
            assert (found[0][token, place] == alone.of(shared[token])).all()
            assert (found[1][token, place] == alone.of(apart[token, place])).all()
        alone.close()
    mixture.close()


def test_attention_has_the_bits_of_llama_cpp_s(tmp_path: Path) -> None:
    found = []
    for switch in ("0", "1"):
        out = tmp_path / f"{switch}.npz"
        environment = {**os.environ, "PASS_EDGE_KERNELS": switch}
        command = [sys.executable, "-m", "tests.products", str(out)]
        subprocess.run(command, env=environment, check=True)
        found.append(np.load(out))
    theirs, ours = found
    assert len(ours.files) > 2 * len(HEADS)
    for name in theirs.files:
        assert (theirs[name] == ours[name]).all(), name
