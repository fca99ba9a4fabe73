"""A model that recites: whatever it is asked, it answers with one text, piece by piece, and ends, or begins
anew.

It makes what is on the screen predictable without a fake engine. Every token's successor is fixed: the blocks
add nothing, and the output row of a token is the embedding of the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

_WIDTH, _HEADS, _INNER, _CONTEXT = 256, 4, 64, 1 << 16
_SHARPNESS = 0.1  # of the logits: the successor's is 25, any other's a few
ASKS, ANSWERS, END = "<asks>", "<answers>", "<end>"
TEMPLATE = (
    "{% for m in messages %}"
    f"{{{{ '{ANSWERS}' if m.role == 'assistant' else '{ASKS}' }}}}{{{{ m.content }}}}{END}"
    "{% endfor %}"
    f"{ANSWERS}"
)


def write_reciting_model(
    path: Path,
    pieces: Sequence[str],
    *,
    endless: bool = False,
    thinks: bool = False,
    template: str | None = TEMPLATE,
) -> Path:
    """Write a model to ``path`` whose every answer is ``pieces``, a token each, all different. ``thinks``:
    its template shows the tags of thinking. ``template``: its chat template, if it has one."""
    assert len(set(pieces)) == len(pieces), "a token has one successor"
    tokens = ["<unk>", ASKS, ANSWERS, END, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 3, *[TokenType.BYTE] * 256]
    kinds += [TokenType.USER_DEFINED] * len(pieces)
    embeddings = np.random.default_rng(0).standard_normal((len(tokens), _WIDTH)).astype(np.float32)
    output = np.zeros_like(embeddings)
    first = len(tokens) - len(pieces)
    told = [2, *range(first, len(tokens)), first if endless else 3]
    for before, after in pairwise(told):
        output[after] += embeddings[before] * np.float32(_SHARPNESS)

    writer = GGUFWriter(path, "llama")
    writer.add_name("reciting model")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_eos_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    if template:
        writer.add_chat_template(template + "{# <think></think> #}" * thinks)
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{norm}.weight", np.ones(_WIDTH, np.float32))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{part}.weight", np.zeros((_WIDTH, _WIDTH), np.float32))
    for part, shape in (("gate", (_INNER, _WIDTH)), ("up", (_INNER, _WIDTH)), ("down", (_WIDTH, _INNER))):
        writer.add_tensor(f"blk.0.ffn_{part}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
