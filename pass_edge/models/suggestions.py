"""Models to begin with, for those who have none: small ones that answer well for their size."""

from __future__ import annotations

from dataclasses import dataclass

_SPARE_BYTES = 1 << 30
"""What the KV cache, buffers and the rest of the program take, roughly, beside the weights."""


@dataclass(frozen=True)
class Suggestion:
    """A model on the hub. ``gigabytes``: about the size of its file."""

    name: str
    gigabytes: float
    what: str

    @property
    def n_bytes(self) -> int:
        return int(self.gigabytes * 1e9)


SUGGESTIONS = (
    Suggestion("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", 0.5, "for old or small machines"),
    Suggestion("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF:Q4_K_M", 1.1, "writes code"),
    Suggestion("HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M", 1.1, "chats, in English"),
    Suggestion("ggml-org/gemma-3-4b-it-GGUF:Q4_K_M", 2.5, "chats, in many languages"),
    Suggestion("Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M", 4.7, "answers better, and more slowly"),
)


def fits(n_bytes: int, memory: int) -> bool:
    """Whether a model with ``n_bytes`` of weights runs in ``memory`` bytes."""
    return n_bytes + _SPARE_BYTES <= memory
