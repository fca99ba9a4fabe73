"""A random embedding model of BERT's architecture, and one that is a decoder, written in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, PoolingType, TokenType

from pass_edge.native.tiny_model import write_tiny_model

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = ["\u2581the", "\u2581yes", "\u2581no", "\u2581river", "s"]  # "\u2581" begins a word
_WIDTH, _HEADS, _INNER, _LAYERS = 64, 2, 128, 2


def write_tiny_bert(path: Path, *, pooling: PoolingType | None = PoolingType.MEAN, context: int = 32) -> Path:
    tokens = [*_SPECIAL, *_WORDS]
    rng = np.random.default_rng(5)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    writer = GGUFWriter(path, "bert")
    writer.add_name("tiny BERT")
    writer.add_context_length(context)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(_SPECIAL) + [TokenType.NORMAL] * len(_WORDS))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    writer.add_tensor("token_embd.weight", weights(len(tokens), _WIDTH) * np.float32(_WIDTH**0.5))
    writer.add_tensor("token_types.weight", weights(2, _WIDTH))
    writer.add_tensor("position_embd.weight", weights(context, _WIDTH))
    blocks = [f"blk.{block}" for block in range(_LAYERS)]
    norms = [f"{block}.{part}_output_norm" for block in blocks for part in ("attn", "layer")]
    for norm in ("token_embd_norm", *norms):
        writer.add_tensor(f"{norm}.weight", np.ones(_WIDTH, np.float32))
        writer.add_tensor(f"{norm}.bias", np.zeros(_WIDTH, np.float32))
    for block in blocks:
        parts = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (_WIDTH, _WIDTH))
        parts |= {"ffn_up": (_INNER, _WIDTH), "ffn_down": (_WIDTH, _INNER)}
        for part, shape in parts.items():
            writer.add_tensor(f"{block}.{part}.weight", weights(*shape))
            writer.add_tensor(f"{block}.{part}.bias", weights(shape[0]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_embedding_decoder(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a model like those that write text, but whose file says that its last token's vector is the
    text's, as Qwen3-Embedding's does."""

    class Writer(GGUFWriter):
        def add_name(self, name: str) -> None:
            super().add_name(name)
            self.add_pooling_type(PoolingType.LAST)

    with monkeypatch.context() as patch:
        patch.setattr("pass_edge.native.tiny_model.GGUFWriter", Writer)
        return write_tiny_model(path, n_embd=64, n_head=2, n_ff=128, n_ctx=64, words=["the", "yes"])
