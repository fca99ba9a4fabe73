"""Small random models with a recurrent memory, one of each kind of llama.cpp's graphs, in Q8_0.

``KINDS`` names them by architecture. Each has few layers, at least one of them recurrent; hybrid ones have
layers with attention too. They are written in a fraction of a second.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

Q8_0 = GGMLQuantizationType.Q8_0

N_VOCAB, N_EMBD, N_HEAD, HEAD_SIZE, N_FF = 32, 64, 2, 32, 128
N_INNER, N_STATE, N_CONV = 2 * N_EMBD, 16, 4
N_RANK = 4
"""The rank of Mamba's time step; the number of Mamba-2's heads; qwen35's value heads."""
N_EXPERT, N_USED = 4, 2
N_LAYER, ATTENTION_LAYER = 3, 1
"""The second layer of a hybrid model has attention, the others are recurrent."""

Tensors = dict[str, np.ndarray]


class _Weights:
    """Random matrices. ``matrix(rows, columns)`` keeps the scale of what it multiplies."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def matrix(self, *shape: int) -> np.ndarray:
        return (self._rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)


_Layer = Callable[[_Weights, int], Tensors]
"""(weights, number of the layer) → its tensors, by name."""


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


def _experts(w: _Weights) -> Tensors:
    """A mixture of experts beside a shared one, instead of a feed-forward part."""
    return {
        "post_attention_norm.weight": _ones(N_EMBD),
        "ffn_gate_inp.weight": w.matrix(N_EXPERT, N_EMBD),
        "ffn_gate_exps.weight": w.matrix(N_EXPERT, N_FF, N_EMBD),
        "ffn_up_exps.weight": w.matrix(N_EXPERT, N_FF, N_EMBD),
        "ffn_down_exps.weight": w.matrix(N_EXPERT, N_EMBD, N_FF),
        "ffn_gate_inp_shexp.weight": w.matrix(N_EMBD),
        "ffn_gate_shexp.weight": w.matrix(N_FF, N_EMBD),
        "ffn_up_shexp.weight": w.matrix(N_FF, N_EMBD),
        "ffn_down_shexp.weight": w.matrix(N_EMBD, N_FF),
    }


def _time_mix(w: _Weights) -> Tensors:
    """RWKV-7 (Peng et al. 2025, arXiv 2503.14456), with all ranks alike."""
    vectors = ("w0", "a0", "v0", "k_k", "k_a", "r_k")
    tensors = {f"time_mix_{name}.weight": w.matrix(N_EMBD) for name in vectors}
    for name in ("w", "a", "v", "g"):
        tensors[f"time_mix_{name}1.weight"] = w.matrix(HEAD_SIZE, N_EMBD)
        tensors[f"time_mix_{name}2.weight"] = w.matrix(N_EMBD, HEAD_SIZE)
    for name in ("key", "value", "receptance", "output"):
        tensors[f"time_mix_{name}.weight"] = w.matrix(N_EMBD, N_EMBD)
    for norm in ("attn_norm_2", "time_mix_ln"):
        tensors |= {f"{norm}.weight": _ones(N_EMBD), f"{norm}.bias": np.zeros(N_EMBD, np.float32)}
    return tensors | {
        "attn_norm.bias": np.zeros(N_EMBD, np.float32),
        "time_mix_lerp_fused.weight": w.matrix(6, 1, 1, N_EMBD),
        "channel_mix_lerp_k.weight": w.matrix(1, 1, N_EMBD),
        "channel_mix_key.weight": w.matrix(N_FF, N_EMBD),
        "channel_mix_value.weight": w.matrix(N_EMBD, N_FF),
    }


def _qwen_mixer(w: _Weights, layer: int) -> Tensors:
    return _attention(w, gated=True, normed=True) if layer == ATTENTION_LAYER else _delta_net(w)


def _qwen3next_layer(w: _Weights, layer: int) -> Tensors:
    tensors = _qwen_mixer(w, layer) | _experts(w)
    if layer != ATTENTION_LAYER:  # one matrix gives both
        parts = [tensors.pop(f"ssm_{part}.weight") for part in ("beta", "alpha")]
        tensors["ssm_ba.weight"] = np.concatenate(parts)
    return tensors


def _nemotron_layer(w: _Weights, layer: int) -> Tensors:
    """Each layer has one part: the last one is a feed-forward part without a gate."""
    if layer == N_LAYER - 1:
        return {"ffn_up.weight": w.matrix(N_FF, N_EMBD), "ffn_down.weight": w.matrix(N_EMBD, N_FF)}
    return _attention(w) if layer == ATTENTION_LAYER else _mamba2(w)


def _hybrid(recurrent: Callable[[_Weights], Tensors], *, normed: bool = False) -> _Layer:
    """Return layers with attention or ``recurrent``, and a feed-forward part."""

    def layer(w: _Weights, number: int) -> Tensors:
        mixer = _attention(w, normed=normed) if number == ATTENTION_LAYER else recurrent(w)
        return mixer | _feed_forward(w)

    return layer


_LAYERS: dict[str, _Layer] = {
    "qwen35": lambda w, layer: _qwen_mixer(w, layer) | _feed_forward(w, "post_attention_norm.weight"),
    "qwen35moe": lambda w, layer: _qwen_mixer(w, layer) | _experts(w),
    "lfm2": _hybrid(_short_convolution, normed=True),
    "nemotron_h": _nemotron_layer,
    "granitehybrid": _hybrid(_mamba2),
    # every layer has both parts; a norm here is a tensor without a suffix
    "falcon-h1": lambda w, _: _attention(w) | _mamba2(w) | _feed_forward(w, "ffn_norm"),
    "jamba": _hybrid(partial(_mamba, normed=True)),
    "qwen3next": _qwen3next_layer,
    "mamba2": lambda w, _: _mamba2(w),
    "mamba": lambda w, _: _mamba(w),
    "rwkv7": lambda w, _: _time_mix(w),
}
KEEPS_STATES = ("qwen35", "qwen35moe", "lfm2", "nemotron_h")
"""The kinds for which llama.cpp keeps the states of several tokens."""
KINDS = tuple(_LAYERS)
_PURE = ("mamba", "mamba2", "rwkv7")
_QWENS = ("qwen35", "qwen35moe", "qwen3next")


def write_recurrent_model(path: Path, kind: str, *, f32: str | None = None, n_mtp: int = 0) -> Path:
    """Write a random model of ``kind`` to ``path``, with token ids only. ``n_mtp``: number of MTP layers
    ("qwen35" alone).

    All products are in Q8_0, those too that files usually have in F32 (the choice of experts, RWKV's small
    matrices): llama.cpp's kernel for F32 is not batch-invariant. ``f32``: a pattern in the names of matrices
    that are in F32 all the same.
    """
    writer = GGUFWriter(path, kind)
    _write_metadata(writer, kind, N_LAYER + n_mtp)
    if n_mtp:
        writer.add_nextn_predict_layers(n_mtp)
    for name, tensor in itertools.chain(_tensors(kind), *map(_mtp_tensors, range(n_mtp))):
        is_product = tensor.ndim > 1 and tensor.shape[-1] % 32 == 0 and not _is_elementwise(name)
        if is_product and not (f32 is not None and re.search(f32, name)):
            writer.add_tensor(name, quantize(tensor, Q8_0), raw_dtype=Q8_0)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _is_elementwise(name: str) -> bool:
    return any(part in name for part in ("norm", "lerp", "conv1d", "shortconv.conv"))


def _write_metadata(writer: GGUFWriter, kind: str, n_layer: int) -> None:
    writer.add_name(f"tiny random {kind}")
    writer.add_context_length(1024)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(n_layer)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    _write_widths(writer, kind)
    if kind not in _PURE:
        _write_attention(writer, kind, n_layer)
    if kind == "nemotron_h":
        writer.add_layer_norm_eps(1e-5)
    if kind == "lfm2":
        writer.add_shortconv_l_cache(N_CONV - 1)
    elif kind == "rwkv7":
        _write_rwkv(writer)
    else:
        _write_states(writer, kind)


def _write_widths(writer: GGUFWriter, kind: str) -> None:
    only_in_the_last = [0] * (N_LAYER - 1) + [N_FF]
    widths = {"nemotron_h": only_in_the_last, "mamba": 0, "mamba2": 0}
    writer.add_feed_forward_length(widths.get(kind, N_FF))
    if kind in ("qwen35moe", "qwen3next"):
        writer.add_expert_count(N_EXPERT)
        writer.add_expert_used_count(N_USED)
        writer.add_expert_feed_forward_length(N_FF)
        writer.add_expert_shared_feed_forward_length(N_FF)


def _write_attention(writer: GGUFWriter, kind: str, n_layer: int) -> None:
    writer.add_head_count(N_HEAD)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_rope_dimension_count(HEAD_SIZE)
    # this list says which layers have attention; in Qwen's kinds an interval does, in falcon-h1 all have it
    everywhere = kind in _QWENS or kind == "falcon-h1"
    heads = [N_HEAD if everywhere or layer == ATTENTION_LAYER else 0 for layer in range(n_layer)]
    writer.add_head_count_kv(heads)
    if kind in _QWENS:
        writer.add_rope_dimension_sections([6, 5, 5, 0])
        writer.add_full_attention_interval(ATTENTION_LAYER + 1)


def _write_rwkv(writer: GGUFWriter) -> None:
    writer.add_head_count(0)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(N_EMBD)  # llama.cpp's AVX-512 kernel needs multiples of 64
    writer.add_token_shift_count(2)
    for part in ("decay", "iclr", "value_residual_mix", "gate"):
        getattr(writer, f"add_{part}_lora_rank")(HEAD_SIZE)


def _write_states(writer: GGUFWriter, kind: str) -> None:
    if kind in _PURE:
        writer.add_head_count(0)
    writer.add_ssm_conv_kernel(N_CONV)
    writer.add_ssm_inner_size(N_INNER)
    writer.add_ssm_state_size(HEAD_SIZE if kind in _QWENS else N_STATE)
    writer.add_ssm_time_step_rank(N_RANK)
    writer.add_ssm_group_count(2 if kind in _QWENS else 1)


def _tensors(kind: str) -> Iterable[tuple[str, np.ndarray]]:
    w = _Weights()
    yield "token_embd.weight", w.matrix(N_VOCAB, N_EMBD) * np.float32(8)
    yield ("token_embd_norm.weight" if kind == "lfm2" else "output_norm.weight"), _ones(N_EMBD)
    yield "output.weight", w.matrix(N_VOCAB, N_EMBD) * np.float32(2)
    if kind == "rwkv7":
        yield "output_norm.bias", np.zeros(N_EMBD, np.float32)
        yield "token_embd_norm.weight", _ones(N_EMBD)
        yield "token_embd_norm.bias", np.zeros(N_EMBD, np.float32)
    for layer in range(N_LAYER):
        tensors = {"attn_norm.weight": _ones(N_EMBD)} | _LAYERS[kind](w, layer)
        for name, tensor in tensors.items():
            yield f"blk.{layer}.{name}", tensor


def _mtp_tensors(number: int) -> Iterable[tuple[str, np.ndarray]]:
    """Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2), as Qwen3.5 has it: a layer with
    attention, over the norms of a token's embedding and of the state before it."""
    w = _Weights()
    tensors = _attention(w, gated=True, normed=True) | _feed_forward(w, "post_attention_norm.weight")
    tensors |= {"nextn.eh_proj.weight": w.matrix(N_EMBD, 2 * N_EMBD)}
    norms = ("attn_norm", "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
    tensors |= {f"{norm}.weight": _ones(N_EMBD) for norm in norms}
    return ((f"blk.{N_LAYER + number}.{name}", tensor) for name, tensor in tensors.items())
