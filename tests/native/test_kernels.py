"""Our kernels compute the right numbers, and a token's bits do not depend on the rest of its batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from pass_edge.native.library import kernels
from pass_edge.native.quantized_matrix import decode_rows, encode_rows
from tests.support.products import SUPERBLOCKS, TOKENS, TYPES, Floats, Products, attention, cases

pytestmark = pytest.mark.skipif(not kernels(), reason="this build has llama.cpp's kernels only")
CASES = {name: (type_name, matrix, activations) for name, type_name, matrix, activations in cases()}


def exact(matrix: Floats, type_name: str, activations: Floats) -> npt.NDArray[np.float64]:
    """(tokens, rows): the products of the weights with the activations rounded to eight bits, in blocks of 32
    or, for K-quants, of 256; of floats with the activations as they are."""
    if type_name == "f32":
        return activations.astype(np.float64) @ matrix.astype(np.float64).T
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


HEADS = ((9, 3, 64), (4, 1, 256), (2, 2, 96), (14, 2, 128), (3, 1, 64), (12, 2, 32))
"""Heads of queries, heads of keys and values, width."""
CELLS = 600


@dataclass(frozen=True)
class KVCache:
    """What attention is asked about: ``visible`` (tokens, cells), of which a random part is true, none for
    the first token, and a stretch for nobody."""

    queries: Floats
    keys: npt.NDArray[np.uint8]
    values: npt.NDArray[np.float16]
    visible: npt.NDArray[np.bool_]

    @classmethod
    def random(cls, heads: int, kv_heads: int, width: int, tokens: int = 40) -> KVCache:
        rng = np.random.default_rng([heads, width])
        visible = rng.random((tokens, CELLS)) < rng.random((tokens, 1))
        visible[:, 100:400] = visible[0] = False
        keys = rng.standard_normal((kv_heads * CELLS, width), np.float32)
        return cls(
            3 * rng.standard_normal((heads, tokens, width), np.float32),
            encode_rows(keys, "q8_0").reshape(kv_heads, CELLS, -1),
            rng.standard_normal((kv_heads, CELLS, width), np.float32).astype(np.float16),
            visible,
        )

    def attention(self, tokens: slice = slice(None), threads: int = 2) -> Floats:
        mask = np.where(self.visible[tokens], np.float32(0), np.float32(-np.inf))
        return attention(self.queries[:, tokens], self.keys, self.values, mask, threads)


def exact_attention(cache: KVCache) -> npt.NDArray[np.float64]:
    """(tokens, heads, width), with the queries rounded to eight bits in blocks of 32."""
    heads, tokens, width = cache.queries.shape
    blocks = cache.queries.reshape(heads, tokens, -1, 32)
    step = np.abs(blocks).max(axis=3, keepdims=True) / np.float32(127)
    queries = (np.rint(blocks / step).astype(np.float64) * step).reshape(heads, tokens, width)
    kv_heads = len(cache.keys)
    keys = decode_rows(cache.keys.reshape(kv_heads * CELLS, -1), "q8_0", width).reshape(
        kv_heads, CELLS, width
    )
    out = np.zeros((tokens, heads, width))
    for head in range(heads):
        shared = head * kv_heads // heads
        scores = queries[head] @ keys[shared].T.astype(np.float64) / width**0.5
        weights = np.exp(scores - scores.max(axis=1, keepdims=True)) * cache.visible
        total = weights.sum(axis=1, keepdims=True)
        out[:, head] = weights @ cache.values[shared].astype(np.float64) / np.where(total > 0, total, 1)
    return out


@pytest.mark.parametrize("shape", HEADS)
def test_attention_is_what_numpy_says(shape: tuple[int, int, int]) -> None:
    cache = KVCache.random(*shape)
    # a query halfway between two steps may be rounded either way, and the weights are steep
    assert np.abs(cache.attention() - exact_attention(cache)).max() < 2e-3


@pytest.mark.parametrize("shape", HEADS)
def test_attention_gives_a_token_the_same_bits_in_any_company(shape: tuple[int, int, int]) -> None:
    cache = KVCache.random(*shape)
    together = cache.attention()
    for count in (1, 2, 3, 7, 16):
        assert (cache.attention(slice(40 - count, 40)) == together[-count:]).all(), count
        assert (cache.attention(slice(count)) == together[:count]).all(), count
    assert (cache.attention(threads=1) == together).all()


@pytest.mark.parametrize("shape", HEADS)
def test_attention_of_conversations_side_by_side_is_that_of_each_alone(shape: tuple[int, int, int]) -> None:
    apart = np.arange(40)[:, None] // 4 == np.arange(CELLS) // 60
    cache = replace(KVCache.random(*shape), visible=apart)
    together = cache.attention()
    assert np.abs(together - exact_attention(cache)).max() < 2e-3
    for first in range(0, 40, 4):
        own = slice(first, first + 4)
        assert (cache.attention(own) == together[own]).all(), first


@pytest.mark.parametrize("shape", HEADS)
def test_cells_that_nobody_sees_change_no_bit(shape: tuple[int, int, int]) -> None:
    cache = KVCache.random(*shape)
    seen = cache.visible.any(axis=0)
    assert not seen.all()
    fewer = KVCache(cache.queries, cache.keys[:, seen], cache.values[:, seen], cache.visible[:, seen])
    assert (fewer.attention() == cache.attention()).all()
