"""How many layers of a model fit into the GPUs' free memory.

llama.cpp's own fitting is part of its command-line tools, not of the library. So the sizes are computed here
from the file's tensor table: a layer takes its tensors and its part of the KV cache.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from .devices import can_offload, devices
from .embeddings import OUTPUT_HEAD, TOKEN_EMBEDDINGS
from .gguf_file import GgufFile, Tensor
from .memory_need import cache_bytes_of
from .model import ALL_LAYERS

_RESERVE = 1 << 30  # bytes, for activations and other users of the device, as in llama.cpp's tools


def fitting_layers(path: str | Path, cells: int) -> int:
    """Return the ``gpu_layers`` to load ``path`` with, given a KV cache of ``cells``: ALL_LAYERS, or as many
    as fit; 0 without a GPU. Raises ModelError if the file cannot be read."""
    free = free_device_memory() if can_offload() else 0
    if not free:
        return 0
    with GgufFile(path) as file:
        return layers_within(free - _RESERVE, list(file.tensors.values()), cells)


def free_device_memory() -> int:
    """Return the free bytes of all GPUs together. Integrated GPUs count only if there are no others."""
    by_kind: dict[str, int] = defaultdict(int)
    for device in devices():
        by_kind[device.kind] += device.free_memory
    return by_kind["gpu"] or by_kind["igpu"]


def layers_within(available: int, tensors: list[Tensor], cells: int) -> int:
    """Return how many layers fit into ``available`` bytes, with their part of a KV cache of ``cells``;
    ALL_LAYERS if all do. llama.cpp places the output first, which counts as a layer, then the last layers."""
    output = _output_bytes(tensors)
    layers = _layer_bytes(tensors, cells)
    sizes = [output, *(layers[number] for number in sorted(layers, reverse=True))]
    for count, size in enumerate(sizes):
        available -= size
        if available < 0:
            return count
    return ALL_LAYERS


def _output_bytes(tensors: list[Tensor]) -> int:
    # a tied model's output is a copy of its token embeddings; the embeddings themselves stay with the CPU
    sizes = {tensor.name: tensor.size for tensor in tensors}
    return sizes.get(OUTPUT_HEAD) or sizes.get(TOKEN_EMBEDDINGS, 0)


def _layer_bytes(tensors: list[Tensor], cells: int) -> dict[int, int]:
    layers: dict[int, int] = defaultdict(int)
    for tensor in tensors:
        if match := re.match(r"blk\.(\d+)\.", tensor.name):
            layers[int(match[1])] += tensor.size + cache_bytes_of(tensor, cells)
    return layers
