"""A GGUF model in memory: its metadata, its vocabulary, and what kind of memory it decodes with."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .devices import can_offload
from .errors import ModelError
from .library import kernels, llama, take_errors
from .malloc_arenas import let_go_of_pages
from .vocabulary import Vocabulary

ALL_LAYERS = -1
_NO_DEVICES = (ctypes.c_void_p * 1)()  # `llama.h`: a list that ends with a null pointer, and so an empty one
_LONGEST_LOAD = 120  # seconds; without weights it takes a fraction of one


class Model:
    """A loaded model. Close it, or use it as a context manager; contexts must be closed first.

    Attributes: ``path``; ``gpu_layers``; ``n_vocab``, ``n_embd``, ``n_layer``, ``n_head``, ``n_ctx_train``
    (ints); ``vocabulary``; ``can_roll_back``: whether part of its memory can be removed (false for
    recurrent and hybrid models).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        gpu_layers: int = 0,
        repack: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Load ``path``; ``gpu_layers`` 0 leaves GPUs alone. ``repack`` lets the CPU backend lay quantized
        weights out for its fastest kernels (`use_extra_bufts`). ``progress`` is called with 0…1. Raises
        ModelError."""
        self.path = check_is_gguf(Path(path))
        self.gpu_layers = gpu_layers if can_offload() else 0
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if gpu_layers == 0:  # else wide batches still go there, and come back with other bits
            params.devices = ctypes.addressof(_NO_DEVICES)
        params.use_extra_bufts = repack
        callback = llama.llama_progress_callback(lambda part, _: progress(part) or True) if progress else None
        if callback:
            params.progress_callback = callback
        take_errors()
        self._handle = llama.llama_model_load_from_file(str(self.path).encode(), params)
        if not self._handle:
            raise ModelError(f"{self.path} cannot be loaded: {take_errors() or 'llama.cpp gave no reason'}")
        if repack and kernels():
            let_go_of_pages(
                self.path
            )  # the weights are laid out anew; of the file, a few tensors are still in use
        self.vocabulary = Vocabulary(llama.llama_model_get_vocab(self._handle))
        self.n_vocab = self.vocabulary.size
        self.n_embd: int = llama.llama_model_n_embd(self._handle)
        self.n_layer: int = llama.llama_model_n_layer(self._handle)
        self.n_head: int = llama.llama_model_n_head(self._handle)
        self.n_head_kv: int = llama.llama_model_n_head_kv(self._handle)
        self.n_ctx_train: int = llama.llama_model_n_ctx_train(self._handle)
        self.can_roll_back = not (
            llama.llama_model_is_recurrent(self._handle) or llama.llama_model_is_hybrid(self._handle)
        )
        self._check_generates()

    def _check_generates(self) -> None:
        handle = self._handle
        if llama.llama_model_has_encoder(handle) or llama.llama_model_is_diffusion(handle):
            kind = self.architecture
            self.close()
            raise ModelError(f"{self.path} is a {kind} model; only decoder-only text models are supported")

    @property
    def handle(self) -> int:
        """llama.cpp's model pointer; raises ModelError once closed."""
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
        """Bytes of all tensors."""
        return int(llama.llama_model_size(self.handle))

    def metadata(self, key: str) -> str | None:
        """One scalar or string metadata value as text; None if absent."""
        length = 512
        while True:
            buffer = ctypes.create_string_buffer(length)
            written = llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, length)
            if written < 0:
                return None
            if written < length:
                return buffer.value.decode("utf-8", "replace")
            length = written + 1

    def chat_template(self) -> str | None:
        """The model's own chat template (Jinja source), if it has one."""
        template = llama.llama_model_chat_template(self.handle, None)
        return template.decode("utf-8", "replace") if template else None

    def head_size(self, which: str) -> int:
        """Width of one attention head's ``"key"`` or ``"value"`` vector."""
        stated = self.metadata(f"{self.architecture}.attention.{which}_length")
        return int(stated) if stated else self.n_embd // max(1, self.n_head)

    def close(self) -> None:
        """Free the weights; safe to call twice."""
        if self._handle:
            llama.llama_model_free(self._handle)
            self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_is_gguf(path: Path) -> Path:
    """``path``, if it looks like a GGUF file; raises ModelError with the reason if not."""
    if not path.exists():
        raise ModelError(f"there is no file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .gguf file inside it")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not magic:
        raise ModelError(f"{path} is empty")
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file (it starts with {magic!r}, not b'GGUF')")
    return path


def check_loads(path: Path) -> None:
    """Raises ModelError if llama.cpp would refuse to load ``path``, or die of it: it aborts on some absurd
    metadata, so a child process finds out. Reads no weights."""
    code = f"import sys, {__name__} as model; print(model._refusal(sys.argv[1]))"
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env=environment, capture_output=True, text=True, errors="replace", timeout=_LONGEST_LOAD,
        )  # fmt: skip
        refusal = done.stdout.strip() if done.returncode == 0 else f"it died ({_last_line(done.stderr)})"
    except subprocess.TimeoutExpired:
        refusal = f"it did not end in {_LONGEST_LOAD} seconds"
    if refusal:
        raise ModelError(f"llama.cpp cannot load this model: {refusal}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]


def _refusal(path: str) -> str:
    params = llama.llama_model_default_params()
    params.no_alloc, params.load_mode, params.n_gpu_layers = True, 0, 0  # maps nothing either
    params.devices = ctypes.addressof(_NO_DEVICES)
    handle = llama.llama_model_load_from_file(path.encode(), params)
    if not handle:
        return take_errors() or "it gave no reason"
    llama.llama_model_free(handle)
    return ""
