"""The models that toy_mtp.py makes: Qwen3.5's kind of layers, with one MTP layer."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5DecoderLayer,
    Qwen3_5ForCausalLM,
    Qwen3_5RMSNorm,
)

N_BYTES, CONTEXT = 256, 1024
WINDOW, BATCH, LEARNING_RATE, MTP_LOSS = 130, 8, 3e-3, 0.5
EVERY = 4  # a layer of so many has attention
ROTATED = 0.25  # the part of a head that positions rotate


@dataclass(frozen=True)
class Shape:
    """The sizes of a model. ``n_head``: heads of ``head_size`` in each layer, with attention or without.
    ``tied``: the output matrix is the token embedding matrix."""

    width: int
    n_layer: int
    n_head: int
    head_size: int
    n_vocab: int
    tied: bool


TOY = Shape(256, 8, 4, 64, N_BYTES, tied=False)
LARGE = Shape(1024, 24, 16, 128, 248320, tied=True)
"""About that of Qwen3.5 0.8B."""


def config(shape: Shape) -> Qwen3_5TextConfig:
    """The configuration of a model, without its MTP layer."""
    return Qwen3_5TextConfig(
        vocab_size=shape.n_vocab,
        hidden_size=shape.width,
        intermediate_size=3 * shape.width,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        num_key_value_heads=shape.n_head // 2,
        head_dim=shape.head_size,
        linear_key_head_dim=shape.head_size,
        linear_value_head_dim=shape.head_size,
        linear_num_key_heads=shape.n_head,
        linear_num_value_heads=shape.n_head,
        tie_word_embeddings=shape.tied,
        layer_types=[
            "full_attention" if (i + 1) % EVERY == 0 else "linear_attention" for i in range(shape.n_layer)
        ],
        max_position_embeddings=CONTEXT,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": ROTATED,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    )


class ToyModel(nn.Module):  # type: ignore[misc]
    """The model and its MTP layer (DeepSeek-V3, arXiv 2412.19437, section 2.2), as Qwen3.5 has it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, chosen = shape, config(shape)
        self.trunk = Qwen3_5ForCausalLM(chosen)
        # a layer with attention: its number picks the type
        self.mtp = Qwen3_5DecoderLayer(chosen, EVERY - 1)
        self.fc = nn.Linear(2 * shape.width, shape.width, bias=False)
        self.norm_embedding, self.norm_hidden, self.norm = (Qwen3_5RMSNorm(shape.width) for _ in range(3))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits for the tokens after ``tokens`` (b, n), and those of the MTP layer for the tokens
        after the next ones, (b, n - 1, n_vocab)."""
        model = self.trunk.model
        hidden = model(tokens).last_hidden_state
        next_embeddings = model.embed_tokens(tokens[:, 1:])
        joined = torch.cat([self.norm_embedding(next_embeddings), self.norm_hidden(hidden[:, :-1])], -1)
        positions = torch.arange(1, tokens.shape[1]).expand(3, tokens.shape[0], -1)
        x = self.fc(joined)
        x = self.mtp(
            x, position_embeddings=model.rotary_emb(x, positions), attention_mask=_causal(x.shape[1])
        )
        head = self.trunk.lm_head
        return head(hidden), head(self.norm(x))


def _causal(n: int) -> Tensor:
    return torch.full((1, 1, n, n), float("-inf")).triu(1)


def train(text: bytes, minutes: float, seed: int) -> ToyModel:
    """Train a toy on ``text`` for so long."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = ToyModel(TOY)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.95))
    n_weights = sum(weight.numel() for weight in model.parameters())
    print(f"{n_weights / 1e6:.1f} million weights, {len(text) / 1e6:.1f} MB of text")
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 - progress)
        starts = [rng.randrange(len(text) - WINDOW) for _ in range(BATCH)]
        tokens = torch.tensor([list(text[start : start + WINDOW]) for start in starts])
        logits, ahead = model(tokens)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss_ahead = cross_entropy(ahead[:, :-1].flatten(0, 1), tokens[:, 2:].flatten())
        optimizer.zero_grad()
        (loss + MTP_LOSS * loss_ahead).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss:.3f}, of the MTP layer {loss_ahead:.3f}", flush=True)
        step += 1
    return model


# -- writing it as GGUF ---------------------------------------------------------------------------------

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
}


def _layer_tensors(layer: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in layer.state_dict().items():
        if name == "linear_attn.dt_bias":
            yield "ssm_dt.bias", tensor
        elif name == "linear_attn.A_log":
            yield "ssm_a", -tensor.exp()
        else:
            module = name.removesuffix(".weight")
            is_shifted = (
                module.endswith("norm") and module != "linear_attn.norm"
            )  # the norms multiply by 1 + w
            yield f"{_NAMES[module]}.weight", tensor.squeeze() + is_shifted


def _tensors(model: ToyModel) -> Iterable[tuple[str, Tensor]]:
    trunk = model.trunk.model
    yield "token_embd.weight", trunk.embed_tokens.weight
    yield "output_norm.weight", trunk.norm.weight + 1
    if not model.shape.tied:
        yield "output.weight", model.trunk.lm_head.weight
    for number, layer in enumerate([*trunk.layers, model.mtp]):
        for name, tensor in _layer_tensors(layer):
            yield f"blk.{number}.{name}", tensor
    mtp = f"blk.{model.shape.n_layer}.nextn"
    yield f"{mtp}.eh_proj.weight", model.fc.weight
    norms = {"enorm": model.norm_embedding, "hnorm": model.norm_hidden, "shared_head_norm": model.norm}
    for name, norm in norms.items():
        yield f"{mtp}.{name}.weight", norm.weight + 1


def write(model: ToyModel, path: Path) -> None:
    """Write ``model`` to ``path`` in Q8_0."""
    writer, q8_0 = GGUFWriter(path, "qwen35"), GGMLQuantizationType.Q8_0
    _write_metadata(writer, model.shape)
    for name, tensor in _tensors(model):
        data = tensor.detach().float().numpy()
        if data.ndim == 2 and "conv1d" not in name:
            writer.add_tensor(name, quantize(data, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_metadata(writer: GGUFWriter, shape: Shape) -> None:
    n_others = shape.n_vocab - N_BYTES
    writer.add_name("toy with an MTP layer")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [f"<0x{byte:02X}>" for byte in range(N_BYTES)] + [f"<{i}>" for i in range(n_others)]
    )
    writer.add_token_scores([0.0] * shape.n_vocab)
    writer.add_token_types([TokenType.BYTE] * N_BYTES + [TokenType.UNUSED] * n_others)
    for add_token in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add_token(0)  # no text has it
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.n_layer + 1)
    writer.add_nextn_predict_layers(1)
    writer.add_feed_forward_length(3 * shape.width)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head // 2)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(int(shape.head_size * ROTATED))
    writer.add_rope_dimension_sections([4, 2, 2, 0])
    writer.add_full_attention_interval(EVERY)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(shape.head_size)
    writer.add_ssm_group_count(shape.n_head)
    writer.add_ssm_time_step_rank(shape.n_head)
    writer.add_ssm_inner_size(shape.n_head * shape.head_size)
