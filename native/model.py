"""A GGUF model in memory: its metadata, its vocabulary, its kind of memory (KV cache or recurrent state)."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .devices import can_offload
from .errors import ModelError
from .library import kernels, llama, take_errors
from .model_path import check_is_gguf, pieces_of
from .process_memory import release_mapped_pages
from .vocabulary import Vocabulary

ALL_LAYERS = -1
_NO_DEVICES = (ctypes.c_void_p * 1)()  # `llama.h`: a list that ends with a null pointer; here it is empty
_TRIED_CONTEXT = 256  # tokens
_LOAD_TIMEOUT = 120  # seconds; loading without weights takes a fraction of one


class Model:
    """A loaded model. Close it, or use it as a context manager; contexts must be closed first.

    Attributes: ``path``; ``gpu_layers``; ``n_vocab``, ``n_embd``, ``n_layer``, ``n_head``, ``n_head_kv``,
    ``n_ctx_train`` (ints); ``n_mtp_layers``, layers in the file that predict the token after the next one
    (multi-token prediction); ``vocabulary``; ``is_recurrent``: whether layers have a recurrent state, in all
    layers or beside attention (hybrid models).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        gpu_layers: int = 0,
        repack: bool = True,
        chat_template: str | None = None,
        mtp: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Load ``path``. Raises ModelError.

        ``gpu_layers``: 0 uses no GPU at all. ``repack``: let the CPU backend repack quantized weights for its
        fastest kernels (`use_extra_bufts`). ``chat_template``: Jinja source, instead of the file's. ``mtp``:
        load the file's MTP layers too. ``progress``: called with the loaded part, 0…1.
        """
        self.path = check_is_gguf(Path(path))
        self.gpu_layers = gpu_layers if can_offload() else 0
        self._chat_template = chat_template
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if gpu_layers == 0:  # otherwise llama.cpp computes wide batches on a GPU, with other bits
            params.devices = ctypes.addressof(_NO_DEVICES)
        params.use_extra_bufts, params.load_mtp = repack, mtp
        callback = llama.llama_progress_callback(lambda part, _: progress(part) or True) if progress else None
        if callback:
            params.progress_callback = callback
        take_errors()
        self._handle = llama.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._handle:
            raise ModelError(f"{self.path} cannot be loaded: {take_errors() or 'llama.cpp gave no reason'}")
        if repack and kernels():
            release_mapped_pages(*pieces_of(self.path))  # repacked weights are copies of what is in the file
        self.vocabulary = Vocabulary(llama.llama_model_get_vocab(self._handle))
        self.n_vocab = self.vocabulary.size
        self.n_embd: int = llama.llama_model_n_embd(self._handle)
        self.n_layer: int = llama.llama_model_n_layer(self._handle)
        self.n_head: int = llama.llama_model_n_head(self._handle)
        self.n_head_kv: int = llama.llama_model_n_head_kv(self._handle)
        self.n_ctx_train: int = llama.llama_model_n_ctx_train(self._handle)
        self.n_mtp_layers: int = llama.llama_model_n_layer_nextn(self._handle)
        self.is_recurrent = bool(
            llama.llama_model_is_recurrent(self._handle) or llama.llama_model_is_hybrid(self._handle)
        )

    @property
    def handle(self) -> int:
        """llama.cpp's model pointer. Raises ModelError once the model is closed."""
        if not self._handle:
            raise ModelError("this model has been closed")
        return self._handle

    @property
    def architecture(self) -> str:
        return self.metadata("general.architecture") or "unknown"

    @property
    def description(self) -> str:
        """llama.cpp's short description, such as ``llama 135M Q4_1``."""
        buffer = ctypes.create_string_buffer(256)
        llama.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def size(self) -> int:
        """The size of all tensors in bytes."""
        return int(llama.llama_model_size(self.handle))

    def metadata(self, key: str) -> str | None:
        """Return a scalar or string metadata value as text; None if it is absent."""
        length = 512
        while True:
            buffer = ctypes.create_string_buffer(length)
            written = llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, length)
            if written < 0:
                return None
            if written < length:
                return buffer.value.decode("utf-8", "replace")
            length = written + 1

    def all_metadata(self) -> dict[str, str]:
        """Return the metadata values that are no arrays as text, by key."""
        keys = map(self._metadata_key, range(llama.llama_model_meta_count(self.handle)))
        return {key: self.metadata(key) or "" for key in keys}

    def _metadata_key(self, index: int) -> str:
        length = llama.llama_model_meta_key_by_index(self.handle, index, None, 0)
        buffer = ctypes.create_string_buffer(length + 1)
        llama.llama_model_meta_key_by_index(self.handle, index, buffer, length + 1)
        return buffer.value.decode("utf-8", "replace")

    def chat_template(self) -> str | None:
        """Return the model's chat template (Jinja source); None if it has none and was given none."""
        if self._chat_template is not None:
            return self._chat_template
        template = llama.llama_model_chat_template(self.handle, None)
        return template.decode("utf-8", "replace") if template else None

    def head_size(self, which: str) -> int:
        """Return the width of an attention head's vectors. ``which``: ``"key"`` or ``"value"``."""
        length = self.metadata(f"{self.architecture}.attention.{which}_length")
        return int(length) if length else self.n_embd // max(1, self.n_head)

    def close(self) -> None:
        """Free the weights; safe to call twice."""
        if self._handle:
            llama.llama_model_free(self._handle)
            self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_loads(path: Path) -> None:
    """Check in a child process that llama.cpp can load ``path``, without reading weights: llama.cpp aborts on
    some invalid metadata. Raises ModelError if it refuses the file or dies."""
    if reason := _in_child("_load_error", path):
        raise ModelError(f"llama.cpp cannot load this model: {reason}")


def mtp_error(path: Path) -> str:
    """Return why llama.cpp cannot run the MTP layers in ``path``, "" if it can; found in a child process,
    without reading weights, because llama.cpp aborts on kinds of them that it does not know."""
    return _in_child("_mtp_error", path)


def _in_child(function: str, path: Path) -> str:
    """Return what ``function`` of this module returns for ``path`` in a child process, or how that ended."""
    code = f"import sys, {__name__} as model; print(model.{function}(sys.argv[1]))"
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env=environment, capture_output=True, text=True, errors="replace", timeout=_LOAD_TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it did not end in {_LOAD_TIMEOUT} seconds"
    return done.stdout.strip() if done.returncode == 0 else f"it died ({_last_line(done.stderr)})"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a message"])[-1]


def _load_error(path: str) -> str:
    """Return why llama.cpp cannot load ``path``; empty if it can."""
    handle = _load_without_weights(path)
    if not handle:
        return take_errors() or "it gave no reason"
    llama.llama_model_free(handle)
    return ""


def _mtp_error(path: str) -> str:
    """Return why llama.cpp cannot run the MTP layers in ``path``; empty if it can."""
    params = llama.llama_context_default_params()
    params.n_ctx, params.ctx_type = _TRIED_CONTEXT, llama.LLAMA_CONTEXT_TYPE_MTP
    context = llama.llama_init_from_model(_load_without_weights(path), params)
    return "" if context else take_errors() or "it gave no reason"


def _load_without_weights(path: str) -> Any:
    """Load ``path`` without allocating or mapping anything. Return llama.cpp's pointer, None if it fails."""
    params = llama.llama_model_default_params()
    params.no_alloc, params.load_mode, params.n_gpu_layers, params.load_mtp = True, 0, 0, True
    params.devices = ctypes.addressof(_NO_DEVICES)
    return llama.llama_model_load_from_file(os.fsencode(path), params)
