"""A model's token embedding matrix and output matrix, memory-mapped.

An embedding batch bypasses llama.cpp's lookup of token ids. So rows are dequantized here with ggml's own
function and scaled as the architecture scales them, to get the same bits.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .gguf_file import GgufFile, open_gguf, type_traits
from .quantized_matrix import QuantizedMatrix

# llama.cpp multiplies by sqrt(n_embd) for token ids but not for raw embeddings in these graphs
# (src/models/gemma3.cpp and its relatives); every other graph treats both inputs alike.
_SCALED_FOR_TOKEN_IDS_ONLY = {"gemma3", "gemma3n", "gemma4", "gemma-embedding"}
_HASHED_BYTES = 1 << 20
TOKEN_EMBEDDINGS = "token_embd.weight"
OUTPUT_HEAD = "output.weight"


class TokenEmbeddings:
    """``token_embd.weight`` of a model's file, mapped: only the rows that are read take memory.

    Attributes: ``type_name``; ``width``: n_embd; ``scale``: factor of the rows; ``output``: the output matrix
    (n_vocab, n_embd), mapped too; of a tied model, the same matrix.
    """

    def __init__(self, model: str | Path | GgufFile) -> None:
        """``model``: its path, or its open file. Raises ModelError if it has no token embeddings."""
        with open_gguf(model) as file:
            pieces, architecture = file.pieces, file.get("general.architecture")
            tensor = file.tensors.get(TOKEN_EMBEDDINGS)
            output = file.tensors.get(OUTPUT_HEAD, tensor)
        if tensor is None or output is None:
            raise ModelError(f"{pieces[0]} holds no {TOKEN_EMBEDDINGS}, so it is no language model")
        matrix = QuantizedMatrix.map_tensor(pieces[tensor.piece], tensor)
        self.type_name, self.width = matrix.type_name, matrix.width
        self._is_f32 = self.type_name == "f32"
        self._to_float = type_traits(tensor.code).to_float
        self._rows = matrix.data
        self._bytes_per_row = self._rows.shape[1]
        self._first_row = self._rows.ctypes.data
        self.output = QuantizedMatrix.map_tensor(pieces[output.piece], output)
        scaled = architecture in _SCALED_FOR_TOKEN_IDS_ONLY
        self.scale = np.float32(math.sqrt(self.width)) if scaled else np.float32(1)

    def rows(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Return the input embeddings of ``tokens`` (n,) as (n, n_embd) float32."""
        if self._is_f32:
            out = self._rows[tokens].view(np.float32)
        else:
            out = np.empty((len(tokens), self.width), np.float32)
            for i, token in enumerate(tokens.tolist()):
                source = ctypes.c_void_p(self._first_row + token * self._bytes_per_row)
                self._to_float(source, ctypes.c_void_p(out.ctypes.data + 4 * i * self.width), self.width)
        return out if self.scale == 1 else out * self.scale

    def fingerprint(self) -> str:
        """Return SHA-256 over type, shape and first MiB of the matrix. It differs between models and between
        quantizations."""
        start = self._rows.reshape(-1)[:_HASHED_BYTES].tobytes()
        return hashlib.sha256(f"{self.type_name} {self._rows.shape}\n".encode() + start).hexdigest()
