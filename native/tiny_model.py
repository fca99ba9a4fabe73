"""A random llama-style model of a few hundred kilobytes, written in milliseconds.

The library probe decodes it before a new build of llama.cpp gets a user's model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

_SPECIAL = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]


def write_tiny_model(
    path: str | Path,
    *,
    n_vocab: int = 256,
    n_embd: int = 256,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int | None = None,
    n_ff: int = 512,
    n_ctx: int = 4096,
    seed: int = 0,
    words: Sequence[str] | None = None,
    controls: Sequence[str] = (),
    chat_template: str | None = None,
) -> Path:
    """Write an F32 model to ``path``. Widths that are multiples of 256 can be quantized to every type.

    ``words``: the model gets a tokenizer of <unk>, <s>, </s>, the 256 bytes, these words, and the control
    tokens ``controls``; ``n_vocab`` is then ignored. By default it has token ids only.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(words or ()), *controls]
    n_vocab = n_vocab if words is None else len(tokens)
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)

    n_head_kv = n_head_kv or n_head
    n_kv = n_embd // n_head * n_head_kv
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny random model")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_vocab_size(n_vocab)
    if words is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * n_vocab)
        types = _SPECIAL + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(words)
        writer.add_token_types(types + [TokenType.CONTROL] * len(controls))
        writer.add_add_space_prefix(False)
    if chat_template:
        writer.add_chat_template(chat_template)
    writer.add_tensor("token_embd.weight", weights(n_vocab, n_embd) * np.float32(n_embd**0.5))
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    writer.add_tensor("output.weight", weights(n_vocab, n_embd) * np.float32(2))
    for block in range(n_layer):
        name = f"blk.{block}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{name}{norm}.weight", np.ones(n_embd, np.float32))
        for part, rows in (("attn_q", n_embd), ("attn_k", n_kv), ("attn_v", n_kv), ("attn_output", n_embd)):
            writer.add_tensor(f"{name}{part}.weight", weights(rows, n_embd))
        for up in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{name}{up}.weight", weights(n_ff, n_embd))
        writer.add_tensor(f"{name}ffn_down.weight", weights(n_embd, n_ff))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)
