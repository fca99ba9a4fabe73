"""A llama.cpp context: decoding batches, reading logits, and the KV cache's sequences."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from .available_memory import available_memory
from .batch import Batch, Int32s, Rows
from .compute import compute
from .devices import default_threads
from .errors import ContextError, ContextFullError, SettingsError
from .library import GGML_TYPES, llama, llama_ext, take_errors
from .model import Model

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
MAX_SEQUENCES = 256
TO_THE_END = -1
_NO_VECTOR = (llama.LLAMA_POOLING_TYPE_NONE, llama.LLAMA_POOLING_TYPE_RANK)


@dataclass(frozen=True)
class ContextSettings:
    """The parameters of a context. ``cells``: number of KV cells; ``batch_size``: most rows of a decode;
    ``sequences``: number of sequence ids; ``outputs``: most rows of a decode that have logits;
    ``cache_type_k``/``_v``: ggml type names; ``unified``: sequences may share cells, else each has an equal
    part of them; ``flash_attention``: None leaves the choice to llama.cpp; ``pooled``: sequences get one
    vector each, as the model's file says; ``rollback``: tokens that a recurrent memory should be able to take
    back, for each of which it keeps another state; None: it is never returned to an earlier state; ``mtp``:
    the context runs the model's MTP layers alone, whose rows are a token and a hidden state each."""

    cells: int
    batch_size: int = 512
    sequences: int = 32
    outputs: int = 64
    threads: int | None = None
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: bool | None = True
    unified: bool = True
    pooled: bool = False
    rollback: int | None = None
    mtp: bool = False


class Context:
    """A llama.cpp context: a model with a KV cache, a recurrent memory, or both. Not thread-safe.

    Attributes: ``model``; ``settings``; ``n_rollback``: tokens that ``remove`` can take back from a recurrent
    memory, 0 where llama.cpp cannot do it for this kind of model; ``keeps_mtp_states``: whether decodes keep
    the hidden states that MTP layers take.
    """

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        """Raises ContextError if there is not enough memory."""
        _check_memory(model, settings)
        self.model = model
        self.settings = settings
        take_errors()
        self._handle = llama.llama_init_from_model(model.handle, _parameters(settings))
        if not self._handle:
            raise ContextError(
                f"llama.cpp cannot make a context of {settings.cells} tokens: "
                f"{take_errors() or 'no reason given'}; try a smaller --ctx-size"
            )
        self._memory = llama.llama_get_memory(self._handle)
        self.n_rollback: int = llama.llama_n_rs_seq(self._handle)
        self._batch = Batch(settings.batch_size, model.n_embd, settings.sequences)
        self._keeps_hidden = self.keeps_mtp_states = False
        self._views: dict[tuple[int, ...], Floats] = {}

    # -- decoding ---------------------------------------------------------------------------------

    def decode_tokens(self, rows: Rows, tokens: Int32s) -> None:
        """Decode ``tokens`` (n,) int32 at ``rows``. Raises ContextFullError, ContextError."""
        self._decode(self._batch.fill_tokens(rows, tokens))

    def decode_mtp(self, rows: Rows, tokens: Int32s, states: Floats) -> None:
        """Decode ``tokens`` (n,) int32, each with the hidden state of the token before it, ``states``
        (n, n_embd) float32, in a context for MTP layers. Raises ContextFullError, ContextError."""
        self._decode(self._batch.fill_tokens_and_states(rows, tokens, states))

    def decode_embeddings(self, rows: Rows, embeddings: Floats) -> None:
        """Decode ``embeddings`` (n, n_embd) float32 at ``rows``. Raises ContextFullError, ContextError."""
        self._decode(self._batch.fill_embeddings(rows, embeddings))

    def set_threads(self, single: int, batched: int) -> None:
        """Set the CPU threads for passes over one row, and over several."""
        llama.llama_set_n_threads(self._handle, single, batched)

    def keep_hidden(self, wanted: bool) -> None:
        """Set whether the next decodes keep hidden states; every row has logits then."""
        if wanted != self._keeps_hidden:
            llama.llama_set_embeddings(self._handle, wanted)
            self._keeps_hidden = wanted

    def keep_mtp_states(self, wanted: bool = True) -> None:
        """Set whether the next decodes keep the hidden states that MTP layers take. Raises ContextError if
        this build of llama.cpp cannot."""
        if wanted == self.keeps_mtp_states:
            return
        if llama_ext is None:
            raise ContextError("this build of llama.cpp does not export what MTP layers need")
        llama_ext.llama_set_embeddings_nextn(self._handle, wanted, False)
        self.keeps_mtp_states = wanted

    def _decode(self, batch: llama.llama_batch) -> None:
        status = compute(lambda: llama.llama_decode(self._handle, batch))
        if status == 0:
            return
        if status == 1:
            raise ContextFullError(f"no room for {batch.n_tokens} more tokens in the KV cache")
        raise ContextError(f"llama.cpp refused a batch (status {status}): {take_errors()}")

    def logits(self, count: int) -> Floats:
        """Return the logits of the last decode's first ``count`` outputs, in row order: a (count, n_vocab)
        float32 view of llama.cpp's buffer, valid until the next decode."""
        return self._view(llama.llama_get_logits(self._handle), count, self.model.n_vocab)

    def hidden(self, count: int) -> Floats:
        """Return the hidden states of the last decode's first ``count`` rows, after the model's last norm: a
        (count, n_embd) float32 view, valid until the next decode. ``keep_hidden`` must have been set."""
        return self._view(llama.llama_get_embeddings(self._handle), count, self.model.n_embd)

    def mtp_states(self, count: int) -> Floats:
        """Return the hidden states of the last decode's first ``count`` rows, with logits or without, as MTP
        layers take them: a (count, n_embd) float32 view, valid until the next decode. ``keep_mtp_states``
        must have been called."""
        return self._view(llama_ext.llama_get_embeddings_nextn(self._handle), count, self.model.n_embd)

    @property
    def pooling_type(self) -> int:
        """How the vectors of a sequence's tokens become one (`llama.h`, `enum llama_pooling_type`)."""
        return int(llama.llama_pooling_type(self._handle))

    @property
    def pooled_width(self) -> int:
        """The numbers in a sequence's vector; 0 if the model's file does not say how to make one."""
        if self.pooling_type in _NO_VECTOR:
            return 0
        return int(llama.llama_model_n_embd_out(self.model.handle))

    def pooled(self, count: int) -> Floats:
        """Return the vectors of the first ``count`` sequences of the last decode, (count, pooled_width)
        float32. ``ContextSettings.pooled`` must have been set."""
        vectors = (llama.llama_get_embeddings_seq(self._handle, sequence) for sequence in range(count))
        return np.stack([np.ctypeslib.as_array(each, (self.pooled_width,)).copy() for each in vectors])

    def _view(self, pointer: ctypes._Pointer, *shape: int) -> Floats:  # type: ignore[type-arg]
        if not pointer:
            raise ContextError("llama.cpp has no outputs for the last decode")
        key = (ctypes.addressof(pointer.contents), *shape)
        if key not in self._views:  # the buffer seldom moves, and between passes a view takes 50 µs to make
            self._views[key] = np.ctypeslib.as_array(pointer, shape)
        return self._views[key]

    # -- KV sequences -----------------------------------------------------------------------------

    def remove(self, sequence: int, start: int, end: int = TO_THE_END) -> None:
        """Remove positions [start, end) of a sequence.

        From a recurrent memory, only the last tokens can be removed: at most ``n_rollback``, fewer than the
        last decode had rows of this sequence, and once after each decode. Raises ContextError otherwise."""
        if not llama.llama_memory_seq_rm(self._memory, sequence, start, end):
            raise ContextError(
                f"the memory of a {self.model.architecture} model cannot be rolled back in part"
            )

    def copy(self, source: int, target: int, start: int, end: int = TO_THE_END) -> None:
        """Make ``target`` share the cells of ``source`` at positions [start, end)."""
        llama.llama_memory_seq_cp(self._memory, source, target, start, end)

    def keep(self, sequence: int) -> None:
        """Remove all other sequences."""
        llama.llama_memory_seq_keep(self._memory, sequence)

    def last_position(self, sequence: int) -> int:
        """Return the highest position of a sequence; -1 if it is empty."""
        return int(llama.llama_memory_seq_pos_max(self._memory, sequence))

    def clear(self) -> None:
        """Remove all sequences."""
        llama.llama_memory_clear(self._memory, False)

    @property
    def layout(self) -> str:
        """Describes the raw format of saved sequences, which depends on the version of llama.cpp: a sequence
        can be restored only into a context with the same layout."""
        settings = self.settings
        types = f"K {settings.cache_type_k.lower()}, V {settings.cache_type_v.lower()}"
        attention = {True: "flash", False: "plain", None: "automatic"}[settings.flash_attention]
        return f"llama-cpp-python {version('llama-cpp-python')}, {types}, {attention} attention"

    def save_sequence(self, sequence: int) -> bytes:
        """Return a sequence's cells as bytes, in cell order, bit for bit."""
        size = llama.llama_state_seq_get_size(self._handle, sequence)
        buffer = (ctypes.c_uint8 * size)()
        written = llama.llama_state_seq_get_data(self._handle, buffer, size, sequence)
        return bytes(memoryview(buffer)[:written])

    def restore_sequence(self, sequence: int, state: bytes) -> None:
        """Restore saved cells at the first free place. Raises ContextError if they do not fit."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if not llama.llama_state_seq_set_data(self._handle, buffer, len(state), sequence):
            raise ContextError(f"a saved sequence cannot be restored: {take_errors()}")

    def save_state(self, sequence: int, out: Bytes | None = None) -> Bytes:
        """Return the recurrent state of a sequence, without KV cells: (n,) uint8, empty if the model has
        none. ``out`` is overwritten and returned if it has the right size: new memory takes longer."""
        if not self.model.is_recurrent:
            return np.empty(0, np.uint8)
        flags = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = llama.llama_state_seq_get_size_ext(self._handle, sequence, flags)
        state = out if out is not None and len(out) == size else np.empty(size, np.uint8)
        llama.llama_state_seq_get_data_ext(self._handle, _address(state), size, sequence, flags)
        return state

    def restore_state(self, sequence: int, state: Bytes, length: int) -> None:
        """Return to the recurrent ``state`` that a sequence had after its first ``length`` tokens, and remove
        the KV cells of later ones. Raises ContextError."""
        flags = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        if len(state) and not llama.llama_state_seq_set_data_ext(
            self._handle, _address(state), len(state), sequence, flags
        ):
            raise ContextError(f"a recurrent state cannot be restored: {take_errors()}")
        self.remove(sequence, length)

    # -- the rest ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the cache; safe to call twice. The model stays."""
        if self._handle:
            llama.llama_free(self._handle)
            self._handle = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(array: Bytes) -> ctypes._Pointer[ctypes.c_uint8]:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))


def _parameters(settings: ContextSettings) -> llama.llama_context_params:
    params = llama.llama_context_default_params()
    params.n_ctx = settings.cells
    params.n_batch = params.n_ubatch = settings.batch_size
    params.n_seq_max = settings.sequences
    params.n_outputs_max = settings.outputs
    params.n_rs_seq = settings.rollback or 0
    params.n_threads = params.n_threads_batch = settings.threads or default_threads()
    params.type_k = _cache_type(settings.cache_type_k)
    params.type_v = _cache_type(settings.cache_type_v)
    params.flash_attn_type = -1 if settings.flash_attention is None else int(settings.flash_attention)
    params.no_perf = True
    # A node of the draft tree belongs to several sequences: that needs one cache for all of them, and a
    # sliding-window cache that keeps the cells that a rollback may need again.
    params.kv_unified = settings.unified
    params.embeddings = settings.pooled
    params.ctx_type = llama.LLAMA_CONTEXT_TYPE_MTP if settings.mtp else llama.LLAMA_CONTEXT_TYPE_DEFAULT
    params.swa_full = True
    return params


def _cache_type(name: str) -> int:
    try:
        return GGML_TYPES[name.lower()]
    except KeyError:
        raise SettingsError(
            f"unknown KV cache type {name!r}; llama.cpp knows {', '.join(sorted(GGML_TYPES))}"
        ) from None


_BYTES_PER_VALUE = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32}


def cache_bytes(model: Model, settings: ContextSettings) -> int:
    """Estimate the size of the KV cache in bytes."""
    width = {
        which: model.head_size(which) * model.n_head_kv * _BYTES_PER_VALUE.get(cache_type.lower(), 0.6)
        for which, cache_type in (("key", settings.cache_type_k), ("value", settings.cache_type_v))
    }
    n_layer = model.n_mtp_layers if settings.mtp else model.n_layer
    return int(settings.cells * n_layer * sum(width.values()))


def _check_memory(model: Model, settings: ContextSettings) -> None:
    # llama.cpp fills the cache with zeros; on a machine that overcommits, the kernel would then
    # kill the process instead of refusing the memory
    needed, free = cache_bytes(model, settings), available_memory()
    if needed > free and not model.gpu_layers:
        raise ContextError(
            f"a context of {settings.cells} tokens needs about {needed / 2**30:.1f} GiB for its KV cache and "
            f"{free / 2**30:.1f} GiB of memory are free; try a smaller --ctx-size"
        )
