"""A llama.cpp batch in memory that numpy writes directly, and the rows that go into it.

A *row* is one input: its position, its sequences, and whether it has logits. The inputs themselves (token ids
or embeddings) are given separately.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .library import llama

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Rows:
    """Positions and sequences of n inputs.

    ``positions``: (n,) int32. Row i belongs to the sequences
    ``sequence_ids[sequence_offsets[i]:sequence_offsets[i + 1]]``; offsets are (n + 1,) int32.
    ``outputs``: (n,) bool, which rows have logits.
    """

    positions: Int32s
    sequence_offsets: Int32s
    sequence_ids: Int32s
    outputs: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.positions)


def rows_of_sequence(start: int, count: int, *, sequence: int = 0, outputs: int = 0) -> Rows:
    """Return ``count`` rows of one sequence from position ``start``, with logits for the last ``outputs``."""
    return Rows(
        positions=np.arange(start, start + count, dtype=np.int32),
        sequence_offsets=np.arange(count + 1, dtype=np.int32),
        sequence_ids=np.full(count, sequence, np.int32),
        outputs=np.arange(count) >= count - outputs,
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """Concatenate ``parts``."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([len(part.sequence_ids) for part in parts], dtype=np.int32)
    offsets = [part.sequence_offsets[1:] + end for part, end in zip(parts[1:], ends, strict=False)]
    return Rows(
        positions=np.concatenate([part.positions for part in parts]),
        sequence_offsets=np.concatenate([parts[0].sequence_offsets, *offsets]),
        sequence_ids=np.concatenate([part.sequence_ids for part in parts]),
        outputs=np.concatenate([part.outputs for part in parts]),
    )


class Batch:
    """The arrays behind a ``llama_batch``, allocated once and refilled for each decode."""

    def __init__(self, capacity: int, n_embd: int, n_sequences: int) -> None:
        """Room for ``capacity`` rows of width ``n_embd``, each in up to ``n_sequences`` sequences."""
        self._tokens = np.zeros(capacity, np.int32)
        self._embeddings = np.zeros((0, n_embd), np.float32)
        self._positions = np.zeros(capacity, np.int32)
        self._counts = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._sequence_ids = np.zeros(capacity * n_sequences, np.int32)
        # llama.cpp needs a pointer into the ids for each row; as addresses, one vector addition makes them
        self._id_addresses = np.zeros(capacity, np.uint64)
        self._first_id_address = np.uint64(self._sequence_ids.ctypes.data)
        self._struct = llama.llama_batch(
            n_tokens=0,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._id_addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )
        self._token_pointer = _pointer(self._tokens, ctypes.c_int32)
        self._filled: tuple[np.ndarray | None, ...] = (None, None, None)
        """What the last rows had besides positions."""

    def fill_tokens(self, rows: Rows, tokens: Int32s) -> llama.llama_batch:
        """Fill the batch with ``tokens`` (n,) int32 at ``rows``."""
        self._tokens[: len(rows)] = tokens
        self._struct.token, self._struct.embd = self._token_pointer, None
        return self._fill(rows)

    def fill_tokens_and_states(
        self, rows: Rows, tokens: Int32s, states: npt.NDArray[np.float32]
    ) -> llama.llama_batch:
        """Fill the batch with ``tokens`` and ``states`` (n, n_embd) float32 at ``rows``: each row has one of
        both, as MTP layers take them."""
        self.fill_embeddings(rows, states)
        self._tokens[: len(rows)] = tokens
        self._struct.token = self._token_pointer
        return self._struct

    def fill_embeddings(self, rows: Rows, embeddings: npt.NDArray[np.float32]) -> llama.llama_batch:
        """Fill the batch with ``embeddings`` (n, n_embd) float32 at ``rows``; the array is used in place."""
        self._embeddings = np.ascontiguousarray(embeddings)
        self._struct.token, self._struct.embd = None, _pointer(self._embeddings, ctypes.c_float)
        return self._fill(rows)

    def _fill(self, rows: Rows) -> llama.llama_batch:
        self._positions[: len(rows)] = rows.positions
        filled = rows.sequence_offsets, rows.sequence_ids, rows.outputs
        if any(map(operator.is_not, filled, self._filled)):
            self._fill_sequences(rows)
            self._filled = filled
        return self._struct

    def _fill_sequences(self, rows: Rows) -> None:
        """Fill in all but positions and inputs: passes of one form have the same arrays."""
        n, offsets = len(rows), rows.sequence_offsets
        self._outputs[:n] = rows.outputs
        self._counts[:n] = offsets[1:] - offsets[:-1]
        self._sequence_ids[: len(rows.sequence_ids)] = rows.sequence_ids
        self._id_addresses[:n] = offsets[:-1].astype(np.uint64) * np.uint64(4) + self._first_id_address
        self._struct.n_tokens = n


def _pointer(array: npt.NDArray[np.generic], kind: type) -> ctypes._Pointer:  # type: ignore[type-arg]
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
