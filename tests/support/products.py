"""Matrix products and attention by ggml, for the tests of our kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pass_edge.native.device_matrix import new_tensor, repacking_buffer_types, write_tensor
from pass_edge.native.library import GGML_TYPES, arena_params, ggml, llama
from pass_edge.native.quantized_matrix import encode_rows

Floats = npt.NDArray[np.float32]
SUPERBLOCKS = ("q4_k", "q5_k", "q6_k", "iq4_xs")
TYPES = ("f32", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", *SUPERBLOCKS)
SHAPES = ((8, 256), (40, 512), (24, 2304), (19, 256), (64, 768), (8, 20480))
"""(rows, width). Of 19 rows the last tile is not full."""
TOKENS = (*range(1, 34), 70)


def cases() -> Iterator[tuple[str, str, Floats, Floats]]:
    """A name, a type, a matrix (rows, width) and activations (70, width)."""
    for type_name in TYPES:
        for rows, width in SHAPES:
            rng = np.random.default_rng([rows, width])
            matrix = rng.standard_normal((rows, width), np.float32)
            activations = rng.standard_normal((max(TOKENS), width), np.float32)
            activations *= rng.lognormal(sigma=2, size=(1, width)).astype(np.float32)
            activations[3] = 0
            yield f"{type_name} {rows}x{width}", type_name, matrix, activations


def computed(
    arena: int, backend: int, out: int, inputs: dict[int, npt.NDArray[np.generic]], shape: tuple[int, ...]
) -> Floats:
    """The numbers of the tensor ``out``, of this shape, once its inputs are given; the arena is freed."""
    graph = ggml("ggml_new_graph")(arena)
    ggml("ggml_build_forward_expand")(graph, out)
    buffer = ggml("ggml_backend_alloc_ctx_tensors")(arena, backend)
    for tensor, data in inputs.items():
        write_tensor(tensor, data)
    assert ggml("ggml_backend_graph_compute")(backend, graph) == 0
    found = np.empty(shape, np.float32)
    ggml("ggml_backend_tensor_get")(out, ctypes.c_void_p(found.ctypes.data), 0, found.nbytes)
    ggml("ggml_backend_buffer_free")(buffer)
    ggml("ggml_free")(arena)
    return found


class Products:
    """Products with one matrix, or with each expert's, laid out as our kernels have it; by two threads."""

    def __init__(self, matrices: Floats, type_name: str) -> None:
        """``matrices``: (rows, width), or (experts, rows, width)."""
        self._arena = ggml("ggml_init")(arena_params(1 << 20))
        self._tensor = tensor(self._arena, type_name, *matrices.shape[::-1])
        # of floats, matrices that choose experts are laid out, others are not
        ggml("ggml_set_name")(self._tensor, b"blk.0.ffn_gate_inp.weight")
        self._buffer = ggml("ggml_backend_alloc_ctx_tensors_from_buft")(
            self._arena, repacking_buffer_types()[0]
        )
        width = matrices.shape[-1]
        write_tensor(self._tensor, encode_rows(matrices.reshape(-1, width), type_name))
        self._rows = matrices.shape[-2]
        self._backend = ggml("ggml_backend_cpu_init")()
        ggml("ggml_backend_cpu_set_n_threads")(self._backend, 2)

    def of(self, activations: Floats) -> Floats:
        """(tokens, width) → (tokens, rows)."""
        arena = ggml("ggml_init")(arena_params(1 << 20))
        given = new_tensor(arena, GGML_TYPES["f32"], *activations.shape)
        product = ggml("ggml_mul_mat")(arena, self._tensor, given)
        inputs = {given: np.ascontiguousarray(activations)}
        return computed(arena, self._backend, product, inputs, (len(activations), self._rows))

    def of_experts(self, activations: Floats, experts: npt.NDArray[np.int32]) -> Floats:
        """(tokens, width) or (tokens, chosen, width), times the matrices of ``experts`` (tokens, chosen):
        (tokens, chosen, rows)."""
        arena = ggml("ggml_init")(arena_params(1 << 20))
        tokens, chosen = experts.shape
        given = tensor(
            arena, "f32", activations.shape[-1], activations.size // activations.shape[-1] // tokens, tokens
        )
        ids = tensor(arena, "i32", chosen, tokens)
        product = ggml("ggml_mul_mat_id")(arena, self._tensor, given, ids)
        inputs = {given: np.ascontiguousarray(activations), ids: np.ascontiguousarray(experts)}
        return computed(arena, self._backend, product, inputs, (tokens, chosen, self._rows))

    def close(self) -> None:
        ggml("ggml_backend_free")(self._backend)
        ggml("ggml_backend_buffer_free")(self._buffer)
        ggml("ggml_free")(self._arena)


def tensor(arena: int, type_name: str, *shape: int) -> int:
    """One described in ``arena``, its shape as ggml counts it: the width first."""
    code = 26 if type_name == "i32" else GGML_TYPES[type_name]
    return int(ggml("ggml_new_tensor")(arena, code, len(shape), (ctypes.c_int64 * len(shape))(*shape)))


def attention(
    queries: Floats, keys: npt.NDArray[np.uint8], values: npt.NDArray[np.float16], mask: Floats, threads: int
) -> Floats:
    """``queries`` (heads, tokens, width), ``keys`` (kv heads, cells, bytes) in Q8_0, ``values`` (kv heads,
    cells, width) and ``mask`` (tokens, cells) of 0 and minus infinity → (tokens, heads, width)."""
    heads, tokens, width = queries.shape
    kv_heads, cells = values.shape[:2]
    arena = ggml("ggml_init")(arena_params(1 << 20))
    backend = ggml("ggml_backend_cpu_init")()
    ggml("ggml_backend_cpu_set_n_threads")(backend, threads)
    q = tensor(arena, "f32", width, tokens, heads)
    k = tensor(arena, "q8_0", width, cells, kv_heads)
    v = tensor(arena, "f16", width, cells, kv_heads)
    m = tensor(arena, "f16", cells, tokens)
    attend = llama._lib.ggml_flash_attn_ext
    attend.argtypes, attend.restype = [ctypes.c_void_p] * 5 + [ctypes.c_float] * 3, ctypes.c_void_p
    out = attend(arena, q, k, v, m, width**-0.5, 0.0, 0.0)
    given = {q: queries, k: keys, v: values, m: mask.astype(np.float16)}
    inputs = {place: np.ascontiguousarray(data) for place, data in given.items()}
    found = computed(arena, backend, out, inputs, (tokens, heads, width))
    ggml("ggml_backend_free")(backend)
    return found
