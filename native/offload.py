"""How many layers of a model fit into the GPUs' free memory.

llama.cpp's own fitting lives in its command-line tools, not in the library, so it is reckoned here from the
file's table of contents: a layer takes its tensors and its part of the KV cache.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from .devices import can_offload, devices
from .embeddings import OUTPUT_HEAD, TOKEN_EMBEDDINGS
from .gguf_file import GgufFile, Tensor
from .model import ALL_LAYERS

_RESERVE = 1 << 30  # for activations and for whatever else needs the device, as in llama.cpp's tools
_BYTES_PER_VALUE = 2  # of the KV cache in F16, which GPUs get
_KEYS_AND_VALUES = ("attn_k.weight", "attn_v.weight", "attn_qkv.weight")


def fitting_layers(path: str | Path, cells: int) -> int:
    """What ``gpu_layers`` should be for ``path`` with a cache of ``cells``: ALL_LAYERS, or as many as fit;
    0 without a GPU. Raises ModelError if the file cannot be read."""
    free = free_device_memory() if can_offload() else 0
    if not free:
        return 0
    with GgufFile(path) as file:
        return layers_within(free - _RESERVE, list(file.tensors.values()), cells)


def free_device_memory() -> int:
    """Bytes free on all GPUs together; on integrated ones only where there are no others."""
    by_kind: dict[str, int] = defaultdict(int)
    for device in devices():
        by_kind[device.kind] += device.free_memory
    return by_kind["gpu"] or by_kind["igpu"]


def layers_within(room: int, tensors: list[Tensor], cells: int) -> int:
    """ALL_LAYERS if all of ``tensors`` and their cache fit into ``room`` bytes, else how many layers do.
    llama.cpp places the output first, which counts as a layer, and then the last layers."""
    output = _output_bytes(tensors)
    layers = _layer_bytes(tensors, cells)
    sizes = [output, *(layers[number] for number in sorted(layers, reverse=True))]
    for count, size in enumerate(sizes):
        room -= size
        if room < 0:
            return count
    return ALL_LAYERS


def _output_bytes(tensors: list[Tensor]) -> int:
    # a tied model's output is a copy of its token embeddings; the embeddings themselves stay with the CPU
    sizes = {tensor.name: tensor.size for tensor in tensors}
    return sizes.get(OUTPUT_HEAD) or sizes.get(TOKEN_EMBEDDINGS, 0)


def _layer_bytes(tensors: list[Tensor], cells: int) -> dict[int, int]:
    layers: dict[int, int] = defaultdict(int)
    for tensor in tensors:
        if named := re.fullmatch(r"blk\.(\d+)\.(.+)", tensor.name):
            number, part = int(named[1]), named[2]
            layers[number] += tensor.size
            if part in _KEYS_AND_VALUES:
                layers[number] += tensor.shape[0] * cells * _BYTES_PER_VALUE
    return layers
