"""What a device is best at."""

from __future__ import annotations

import torch


def fastest(device: torch.device) -> torch.dtype:
    """In what ``device`` multiplies matrices fastest."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
