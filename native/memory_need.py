"""How much memory a model takes, estimated from its file's tensor table before it is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from .gguf_file import GgufFile, Tensor

_KEYS_AND_VALUES = re.compile(r"blk\.\d+\.attn_(k|v|qkv)\.weight")
_BYTES_PER_VALUE = 2  # of the KV cache, which is F16 or smaller
_BUFFERS = 128 << 20  # bytes, for activations and logits


def bytes_needed(path: str | Path, cells: int) -> int:
    """Estimate the bytes that the model in ``path`` takes with a KV cache of ``cells``: weights, cache, and
    buffers. Raises ModelError."""
    with GgufFile(path) as file:
        tensors = list(file.tensors.values())
    return _BUFFERS + sum(tensor.size + cache_bytes_of(tensor, cells) for tensor in tensors)


def cache_bytes_of(tensor: Tensor, cells: int) -> int:
    """Return the bytes of a KV cache of ``cells`` for the keys or values that ``tensor`` makes; 0 if it makes
    others."""
    return tensor.shape[0] * cells * _BYTES_PER_VALUE if _KEYS_AND_VALUES.fullmatch(tensor.name) else 0
