"""Small random models with a recurrent memory, one of each kind of llama.cpp's graphs, in Q8_0.

``KINDS`` names them by architecture. Each has few layers, at least one of them recurrent; hybrid ones have
layers with attention too. They are written in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from pass_edge.native.quantize import quantize

N_VOCAB, N_EMBD, N_HEAD, HEAD_SIZE, N_FF = 32, 64, 2, 32, 128
N_INNER, N_STATE, N_CONV = 2 * N_EMBD, 16, 4
N_RANK = 4
"""The rank of Mamba's time step; the number of Mamba-2's heads; qwen35's value heads."""
N_LAYER, ATTENTION_LAYER = 3, 1
"""The second layer of a hybrid model has attention, the others are recurrent."""

Tensors = dict[str, np.ndarray]


class _Weights:
    """Random matrices. ``matrix(rows, columns)`` keeps the scale of what it multiplies."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def matrix(self, *shape: int) -> np.ndarray:
        return (self._rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _attention(w: _Weights, *, gated: bool = False, normed: bool = False) -> Tensors:
    width = N_HEAD * HEAD_SIZE
    tensors = {f"attn_{part}.weight": w.matrix(width, N_EMBD) for part in ("k", "v")}
    tensors["attn_q.weight"] = w.matrix(width * (2 if gated else 1), N_EMBD)
    tensors["attn_output.weight"] = w.matrix(N_EMBD, width)
    if normed:
        tensors |= {f"attn_{part}_norm.weight": _ones(HEAD_SIZE) for part in ("q", "k")}
    return tensors


def _feed_forward(w: _Weights, norm: str = "ffn_norm.weight") -> Tensors:
    return {
        norm: _ones(N_EMBD),
        "ffn_gate.weight": w.matrix(N_FF, N_EMBD),
        "ffn_up.weight": w.matrix(N_FF, N_EMBD),
        "ffn_down.weight": w.matrix(N_EMBD, N_FF),
    }


def _mamba(w: _Weights, *, normed: bool = False) -> Tensors:
    """Mamba (Gu, Dao 2023, arXiv 2312.00752, section 3.4)."""
    norms = {"ssm_dt_norm.weight": _ones(N_RANK)} | {
        f"ssm_{part}_norm.weight": _ones(N_STATE) for part in ("b", "c")
    }
    return (norms if normed else {}) | {
        "ssm_in.weight": w.matrix(2 * N_INNER, N_EMBD),
        "ssm_conv1d.weight": w.matrix(N_INNER, N_CONV),
        "ssm_conv1d.bias": np.zeros(N_INNER, np.float32),
        "ssm_x.weight": w.matrix(N_RANK + 2 * N_STATE, N_INNER),
        "ssm_dt.weight": w.matrix(N_INNER, N_RANK),
        "ssm_dt.bias": np.zeros(N_INNER, np.float32),
        "ssm_a": -np.tile(np.arange(1, N_STATE + 1, dtype=np.float32), (N_INNER, 1)),
        "ssm_d": _ones(N_INNER),
        "ssm_out.weight": w.matrix(N_EMBD, N_INNER),
    }


def _mamba2(w: _Weights) -> Tensors:
    """Mamba-2 (Dao, Gu 2024, arXiv 2405.21060, section 7), with one group."""
    convolved = N_INNER + 2 * N_STATE
    return {
        "ssm_in.weight": w.matrix(N_INNER + convolved + N_RANK, N_EMBD),
        "ssm_conv1d.weight": w.matrix(convolved, N_CONV),
        "ssm_conv1d.bias": np.zeros(convolved, np.float32),
        "ssm_dt.bias": np.zeros(N_RANK, np.float32),
        "ssm_a": -np.arange(1, N_RANK + 1, dtype=np.float32)[:, None] / 4,
        "ssm_d": _ones(N_RANK, 1),
        "ssm_norm.weight": _ones(1, N_INNER),
        "ssm_out.weight": w.matrix(N_EMBD, N_INNER),
    }


def _delta_net(w: _Weights) -> Tensors:
    """Gated delta net (Yang et al. 2024, arXiv 2412.06464): two heads for keys, four for values."""
    keys, values = 2 * HEAD_SIZE, N_RANK * HEAD_SIZE
    return {
        "attn_qkv.weight": w.matrix(2 * keys + values, N_EMBD),
        "attn_gate.weight": w.matrix(values, N_EMBD),
        "ssm_conv1d.weight": w.matrix(2 * keys + values, N_CONV),
        "ssm_dt.bias": np.zeros(N_RANK, np.float32),
        "ssm_a": -np.arange(1, N_RANK + 1, dtype=np.float32) / 4,
        "ssm_beta.weight": w.matrix(N_RANK, N_EMBD),
        "ssm_alpha.weight": w.matrix(N_RANK, N_EMBD),
        "ssm_norm.weight": _ones(HEAD_SIZE),
        "ssm_out.weight": w.matrix(N_EMBD, values),
    }


def _short_convolution(w: _Weights) -> Tensors:
    return {
        "shortconv.conv.weight": w.matrix(N_EMBD, N_CONV - 1),
        "shortconv.in_proj.weight": w.matrix(3 * N_EMBD, N_EMBD),
        "shortconv.out_proj.weight": w.matrix(N_EMBD, N_EMBD),
    }


def _mamba_layer(w: _Weights, has_attention: bool) -> Tensors:
    return _mamba(w)


def _mamba2_layer(w: _Weights, has_attention: bool) -> Tensors:
    return _mamba2(w)


def _jamba_layer(w: _Weights, has_attention: bool) -> Tensors:
    return (_attention(w) if has_attention else _mamba(w, normed=True)) | _feed_forward(w)


def _granite_layer(w: _Weights, has_attention: bool) -> Tensors:
    return (_attention(w) if has_attention else _mamba2(w)) | _feed_forward(w)


def _falcon_layer(w: _Weights, has_attention: bool) -> Tensors:
    # every layer has both; here, a norm for the feed-forward part is a tensor without a suffix
    return _attention(w) | _mamba2(w) | _feed_forward(w, norm="ffn_norm")


def _lfm2_layer(w: _Weights, has_attention: bool) -> Tensors:
    return (_attention(w, normed=True) if has_attention else _short_convolution(w)) | _feed_forward(w)


def _qwen35_layer(w: _Weights, has_attention: bool) -> Tensors:
    mixer = _attention(w, gated=True, normed=True) if has_attention else _delta_net(w)
    return mixer | _feed_forward(w, norm="post_attention_norm.weight")


_LAYERS: dict[str, Callable[[_Weights, bool], Tensors]] = {
    "qwen35": _qwen35_layer,
    "lfm2": _lfm2_layer,
    "granitehybrid": _granite_layer,
    "falcon-h1": _falcon_layer,
    "jamba": _jamba_layer,
    "mamba2": _mamba2_layer,
    "mamba": _mamba_layer,
}
KEEPS_STATES = ("qwen35", "lfm2")
"""The kinds for which llama.cpp keeps the states of several tokens."""
KINDS = tuple(_LAYERS)
_PURE = ("mamba", "mamba2")


def write_recurrent_model(path: Path, kind: str, *, seed: int = 0, file_type: str = "Q8_0") -> Path:
    """Write a random model of ``kind`` to ``path``, with token ids only."""
    source = path.with_suffix(".f32")
    writer = GGUFWriter(source, kind)
    _write_metadata(writer, kind)
    for name, tensor in _tensors(kind, seed):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize(source, path, file_type)
    source.unlink()
    return path


def _write_metadata(writer: GGUFWriter, kind: str) -> None:
    writer.add_name(f"tiny random {kind}")
    writer.add_context_length(1024)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    writer.add_feed_forward_length(0 if kind in _PURE else N_FF)
    writer.add_head_count(0 if kind in _PURE else N_HEAD)
    if kind not in _PURE:
        writer.add_key_length(HEAD_SIZE)
        writer.add_value_length(HEAD_SIZE)
        writer.add_rope_dimension_count(HEAD_SIZE)
        # this list says which layers have attention; in qwen35 an interval does, in falcon-h1 all have it
        everywhere = kind in ("qwen35", "falcon-h1")
        heads = [N_HEAD if everywhere or i == ATTENTION_LAYER else 0 for i in range(N_LAYER)]
        writer.add_head_count_kv(heads)
    if kind == "qwen35":
        writer.add_rope_dimension_sections([6, 5, 5, 0])
        writer.add_full_attention_interval(ATTENTION_LAYER + 1)
    if kind == "lfm2":
        writer.add_shortconv_l_cache(N_CONV - 1)
        return
    writer.add_ssm_conv_kernel(N_CONV)
    writer.add_ssm_inner_size(N_INNER)
    writer.add_ssm_state_size(HEAD_SIZE if kind == "qwen35" else N_STATE)
    writer.add_ssm_time_step_rank(N_RANK)
    writer.add_ssm_group_count(2 if kind == "qwen35" else 1)


def _tensors(kind: str, seed: int) -> Iterable[tuple[str, np.ndarray]]:
    w = _Weights(seed)
    yield "token_embd.weight", w.matrix(N_VOCAB, N_EMBD) * np.float32(8)
    yield ("token_embd_norm.weight" if kind == "lfm2" else "output_norm.weight"), _ones(N_EMBD)
    yield "output.weight", w.matrix(N_VOCAB, N_EMBD) * np.float32(2)
    for layer in range(N_LAYER):
        tensors = {"attn_norm.weight": _ones(N_EMBD)} | _LAYERS[kind](w, layer == ATTENTION_LAYER)
        for name, tensor in tensors.items():
            yield f"blk.{layer}.{name}", tensor
