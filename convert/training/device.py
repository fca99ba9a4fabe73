"""Properties of torch devices."""

from __future__ import annotations

import torch


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which ``device`` multiplies matrices fastest."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
