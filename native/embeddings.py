"""A model's token embedding matrix, its rows exactly as llama.cpp's graph would look them up, and its output
matrix.

An embedding batch bypasses the lookup, so its rows must be dequantized with ggml's own function and
scaled as the architecture does for token ids, or the bits differ.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .gguf_file import GgufFile, opened, type_traits
from .quantized_matrix import QuantizedMatrix

# llama.cpp multiplies by sqrt(n_embd) for token ids but not for raw embeddings in these graphs
# (src/models/gemma3.cpp and its relatives); every other graph treats both inputs alike.
_SCALED_FOR_TOKEN_IDS_ONLY = {"gemma3", "gemma3n", "gemma4", "gemma-embedding"}
_HASHED_BYTES = 1 << 20
TOKEN_EMBEDDINGS = "token_embd.weight"
OUTPUT_HEAD = "output.weight"


class TokenEmbeddings:
    """``token_embd.weight`` of a model's file, mapped, not loaded: memory is that of the rows asked for.

    Attributes: ``type_name``; ``width``, n_embd; ``scale`` of the rows; ``output``, the output matrix
    (n_vocab, n_embd), mapped too: a tied model's is this same one."""

    def __init__(self, model: str | Path | GgufFile) -> None:
        """``model``: its path, or its file where that is open. Raises ModelError if it holds no token
        embeddings (a later part of a split model)."""
        with opened(model) as file:
            path, architecture = file.path, file.get("general.architecture")
            tensor = file.tensors.get(TOKEN_EMBEDDINGS)
            output = file.tensors.get(OUTPUT_HEAD, tensor)
        if tensor is None or output is None:
            raise ModelError(f"{path} holds no {TOKEN_EMBEDDINGS}; is it part of a split model?")
        stored = QuantizedMatrix.mapped(path, tensor)
        self.type_name, self.width = stored.type_name, stored.width
        self._is_f32 = self.type_name == "f32"
        self._to_float = type_traits(tensor.code).to_float
        self._rows = stored.data
        self._bytes_a_row = self._rows.shape[1]
        self._first_row = self._rows.ctypes.data
        self.output = QuantizedMatrix.mapped(path, output)
        scaled = architecture in _SCALED_FOR_TOKEN_IDS_ONLY
        self.scale = np.float32(math.sqrt(self.width)) if scaled else np.float32(1)

    def rows(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """The input embeddings of ``tokens`` (n,), as (n, n_embd) float32."""
        if self._is_f32:
            out = self._rows[tokens].view(np.float32)
        else:
            out = np.empty((len(tokens), self.width), np.float32)
            for i, token in enumerate(tokens.tolist()):
                source = ctypes.c_void_p(self._first_row + token * self._bytes_a_row)
                self._to_float(source, ctypes.c_void_p(out.ctypes.data + 4 * i * self.width), self.width)
        return out if self.scale == 1 else out * self.scale

    def fingerprint(self) -> str:
        """SHA-256 over type, shape and the first MiB of the matrix: tells quantizations and models apart."""
        start = self._rows.reshape(-1)[:_HASHED_BYTES].tobytes()
        return hashlib.sha256(f"{self.type_name} {self._rows.shape}\n".encode() + start).hexdigest()
