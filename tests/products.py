"""Matrix products by ggml, for the tests of our kernels: `python -m tests.products OUT.npz` computes them in
a process of its own, because PASS_EDGE_KERNELS is read once."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pass_edge.native.library import GGML_TYPES, arena_params, ggml
from pass_edge.native.packed import _repacking, new_tensor, write
from pass_edge.native.stored import encode_rows

Floats = npt.NDArray[np.float32]
TYPES = ("q4_0", "q4_1", "q5_0", "q8_0", "q4_k", "q6_k", "q5_k")
SHAPES = ((8, 256), (40, 512), (24, 2304), (19, 256), (64, 768), (8, 20480))
"""(rows, width). 19 rows are left to llama.cpp; a width of 20,480 is more than the kernels have room for."""
TOKENS = (*range(1, 18), 31, 32, 33)


def cases() -> Iterator[tuple[str, str, Floats, Floats]]:
    """A name, a type, a matrix (rows, width) and activations (33, width)."""
    for type_name in TYPES:
        for rows, width in SHAPES:
            rng = np.random.default_rng([rows, width])
            matrix = rng.standard_normal((rows, width), np.float32)
            activations = rng.standard_normal((max(TOKENS), width), np.float32)
            activations *= rng.lognormal(sigma=2, size=(1, width)).astype(np.float32)
            activations[3] = 0
            yield f"{type_name} {rows}x{width}", type_name, matrix, activations


class Products:
    """Products with one matrix, repacked or as files have it; by two threads."""

    def __init__(self, matrix: Floats, type_name: str, *, repack: bool) -> None:
        self._arena = ggml("ggml_init")(arena_params(1 << 20))
        self._tensor = new_tensor(self._arena, GGML_TYPES[type_name], *matrix.shape)
        buffer_type = _repacking() if repack else ggml("ggml_backend_cpu_buffer_type")()
        self._buffer = ggml("ggml_backend_alloc_ctx_tensors_from_buft")(self._arena, buffer_type)
        write(self._tensor, encode_rows(matrix, type_name))
        self._shape = matrix.shape
        self._backend = ggml("ggml_backend_cpu_init")()
        ggml("ggml_backend_cpu_set_n_threads")(self._backend, 2)

    def of(self, activations: Floats) -> Floats:
        """(tokens, width) → (tokens, rows)."""
        arena = ggml("ggml_init")(arena_params(1 << 20))
        given = new_tensor(arena, GGML_TYPES["f32"], *activations.shape)
        product = ggml("ggml_mul_mat")(arena, self._tensor, given)
        graph = ggml("ggml_new_graph")(arena)
        ggml("ggml_build_forward_expand")(graph, product)
        buffer = ggml("ggml_backend_alloc_ctx_tensors")(arena, self._backend)
        write(given, np.ascontiguousarray(activations))
        assert ggml("ggml_backend_graph_compute")(self._backend, graph) == 0
        out = np.empty((len(activations), self._shape[0]), np.float32)
        ggml("ggml_backend_tensor_get")(product, ctypes.c_void_p(out.ctypes.data), 0, out.nbytes)
        ggml("ggml_backend_buffer_free")(buffer)
        ggml("ggml_free")(arena)
        return out

    def close(self) -> None:
        ggml("ggml_backend_free")(self._backend)
        ggml("ggml_backend_buffer_free")(self._buffer)
        ggml("ggml_free")(self._arena)


def layouts(type_name: str, rows: int) -> tuple[bool, ...]:
    """Whether to repack; Q4_0 also, where rows come by eights."""
    return (False, True) if type_name == "q4_0" and rows % 8 == 0 and _repacking() else (False,)


def all_products() -> dict[str, Floats]:
    """By name: the products of each case's matrix with 1, 2, … 33 tokens, one behind the other."""
    found = {}
    for name, type_name, matrix, activations in cases():
        for repack in layouts(type_name, len(matrix)):
            products = Products(matrix, type_name, repack=repack)
            outs = [products.of(activations[-count:]).ravel() for count in TOKENS]
            found[f"{name}{' repacked' if repack else ''}"] = np.concatenate(outs)
            products.close()
    return found


if __name__ == "__main__":
    np.savez(sys.argv[1], **all_products())
