"""What a GGUF file is, by its metadata: a model that writes text, or one of the many other kinds.

llama.cpp loads some of the other kinds as if they wrote text, and aborts the process in the first pass.
"""

from __future__ import annotations

from enum import Enum

from .errors import ModelError
from .gguf_file import GgufFile


class Kind(Enum):
    """What a file is. The value says it in words, and what to give instead of it to generate text."""

    TEXT = "a model that writes text", ""

    # models of other kinds
    EMBEDDING = "an embedding model, which turns text into vectors", "give a model that writes text"
    RERANKER = "a reranker or classifier, which scores texts", "give a model that writes text"
    ENCODER_DECODER = "an encoder-decoder model", "only decoder-only models are supported"
    DIFFUSION = "a diffusion model, which does not write from left to right", "give an autoregressive model"
    DRAFT = (
        "a draft head (EAGLE-3, DFlash or an assistant of Gemma 4), which cannot be used here",
        "give the model that it was made for",
    )
    SPEECH = "a model of speech, not of text", "give a model that writes text"

    # no models
    LOOKAHEAD = "a lookahead file, not a model", "give it with --lookahead, and its model with --model"
    LORA = "a LoRA adapter, not a model", "give the model that it was made for, or merge both into one"
    CONTROL_VECTOR = "a control vector, not a model", "give the model that it was made for"
    PROJECTOR = "a projector for images or sound (mmproj), not a model", "give the model that it belongs to"
    IMATRIX = "an importance matrix (imatrix), not a model", "give the model that was quantized with it"
    VOCABULARY = "a vocabulary without weights", "give the file that holds the whole model"
    EMPTY = "a GGUF file without tensors", "give the file that holds the whole model"
    LATER_PIECE = "a later piece of a split model", "give the first piece; its name ends in {first}"

    @property
    def words(self) -> str:
        return self.value[0]

    @property
    def is_model(self) -> bool:
        return self in _MODELS


_MODELS = frozenset(
    (Kind.TEXT, Kind.EMBEDDING, Kind.RERANKER, Kind.ENCODER_DECODER, Kind.DIFFUSION, Kind.DRAFT, Kind.SPEECH)
)
_ARCHITECTURES = {  # llama.cpp's, `src/llama-arch.cpp`
    **dict.fromkeys(("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert"), Kind.EMBEDDING),
    **dict.fromkeys(("jina-bert-v2", "jina-bert-v3", "eurobert", "t5encoder"), Kind.EMBEDDING),
    **dict.fromkeys(("gemma-embedding", "llama-embed"), Kind.EMBEDDING),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), Kind.DIFFUSION),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), Kind.DRAFT),
    **dict.fromkeys(("wavtokenizer-dec", "qwen3tts", "pockettts"), Kind.SPEECH),
    "t5": Kind.ENCODER_DECODER,
    "clip": Kind.PROJECTOR,
    "controlvector": Kind.CONTROL_VECTOR,
}
_POOLED, _RANKED = (1, 2, 3), 4  # `llama.h`, `enum llama_pooling_type`: mean, first or last token; rank
_TYPES = {"imatrix": Kind.IMATRIX, "mmproj": Kind.PROJECTOR}  # of `general.type`
_SCORES = ("cls.weight", "cls.output.weight")


def kind_of(file: GgufFile) -> Kind:
    """Return what ``file`` is. Reads metadata and names of tensors only."""
    kind, architecture = file.text("general.type"), file.text("general.architecture") or ""
    if kind == "adapter":
        return Kind.LOOKAHEAD if file.get("pass.format_version") is not None else Kind.LORA
    if kind in _TYPES:
        return _TYPES[kind]
    if file.number("split.no"):
        return Kind.LATER_PIECE
    by_name = _ARCHITECTURES.get(architecture, Kind.TEXT)
    if not by_name.is_model:
        return by_name
    if not file.tensors:
        return Kind.EMPTY if file.get("tokenizer.ggml.tokens") is None else Kind.VOCABULARY
    return _kind_of_head(file, architecture) or by_name


def _kind_of_head(file: GgufFile, architecture: str) -> Kind | None:
    """Return what a model makes of its outputs, if not tokens."""
    pooling = file.number(f"{architecture}.pooling_type")
    if pooling == _RANKED or any(name in file.tensors for name in _SCORES):
        return Kind.RERANKER
    reads_both_ways = file.number(f"{architecture}.attention.causal") is False
    has_segments = file.get("tokenizer.ggml.token_type_count") is not None  # as BERT's have
    if architecture not in _ARCHITECTURES and (pooling in _POOLED or reads_both_ways or has_segments):
        return Kind.EMBEDDING
    return None


def n_mtp_layers(file: GgufFile) -> int:
    """Return how many MTP layers ``file`` has."""
    return file.number(f"{file.text('general.architecture')}.nextn_predict_layers") or 0


def check_is_model(file: GgufFile) -> None:
    """Raise ModelError if ``file`` is no model of any kind."""
    if not (kind := kind_of(file)).is_model:
        raise _wrong(file, kind)


def check_generates(file: GgufFile) -> None:
    """Raise ModelError if ``file`` is no model that writes text."""
    if (kind := kind_of(file)) != Kind.TEXT:
        raise _wrong(file, kind)


def _wrong(file: GgufFile, kind: Kind) -> ModelError:
    what, instead = kind.value
    if kind == Kind.LOOKAHEAD:
        what = f"{what}; it was made for {file.text('pass.base.name')!r}"
    instead = instead.format(first=f"-00001-of-{file.number('split.count') or 0:05}.gguf")
    return ModelError(f"{file.path} is {what}; {instead}")
