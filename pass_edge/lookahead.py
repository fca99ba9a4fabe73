"""The lookahead of a model: its files, reading, writing, and whether it fits a model.

It stands in a sidecar of its own, or in the model's file, *merged*. The format is described in
docs/format.md; its keys and limits stand in the table below, which all readers and writers use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LookaheadError
from pass_edge.native.gguf_file import GgufFile, NewTensor, Value, write_gguf
from pass_edge.native.library import GGML_TYPES
from pass_edge.native.output import written_whole

FORMAT_VERSION = 1
MAX_COUNT, MAX_WIDTH = 64, 1 << 16
WEIGHT = "pass.lookahead.weight"

T = TypeVar("T")


class Keys:
    """GGUF keys of a lookahead, in a sidecar or merged."""

    TYPE = "general.type"
    ARCHITECTURE = "general.architecture"
    NAME = "general.name"
    TOKENS = "tokenizer.ggml.tokens"

    VERSION = "pass.format_version"
    COUNT = "pass.lookahead.count"
    WIDTH = "pass.embedding_length"
    PREFIX = "pass.prefix.count"
    HEAD = "pass.head.width"
    BASE_NAME = "pass.base.name"
    BASE_VOCABULARY = "pass.base.vocabulary_size"
    BASE_TOKENIZER = "pass.base.tokenizer_sha256"
    BASE_EMBEDDINGS = "pass.base.token_embeddings_sha256"
    ACCEPTANCE = "pass.acceptance"
    TRAINING = "pass.training"


@dataclass(frozen=True)
class Base:
    """The model that a lookahead belongs to, as far as a file can tell."""

    architecture: str
    name: str
    n_embd: int
    n_vocab: int
    tokenizer_sha256: str
    embeddings_sha256: str

    @classmethod
    def of(cls, path: str | Path) -> Base:
        """The model in ``path``; of a merged file, the model that the lookahead was merged into.
        Raises ModelError, LookaheadError."""
        with GgufFile(path) as file:
            if _is_merged(file):
                return _base(file)
            architecture = _required(file, Keys.ARCHITECTURE, str)
            tokens = file.get(Keys.TOKENS)
            if not isinstance(tokens, list):  # a model without text: only how many there are
                size = _required(file, f"{architecture}.vocab_size", int)
                tokens = []
                digest = hashlib.sha256(b"%d tokens without text" % size)
            else:
                size, digest = len(tokens), hashlib.sha256(b"\n".join(tokens))
            name = file.get(Keys.NAME)
        embeddings = TokenEmbeddings(path)
        return cls(
            architecture=architecture,
            name=name if isinstance(name, str) else Path(path).stem,
            n_embd=embeddings.width,
            n_vocab=size,
            tokenizer_sha256=digest.hexdigest(),
            embeddings_sha256=embeddings.fingerprint(),
        )


@dataclass(frozen=True)
class Lookahead:
    """Trained lookahead embeddings for one base model.

    ``embeddings``: (L, n_embd) float32; row k, standing k + 1 positions after a token, drafts the
    token k + 2 positions after it. ``acceptance``: measured share of right first drafts by depth.
    ``training``: how it was made, for people.
    """

    embeddings: npt.NDArray[np.float32]
    base: Base
    acceptance: tuple[float, ...] = ()
    training: str = ""

    def __len__(self) -> int:
        return len(self.embeddings)

    def matches(self, base: Base) -> list[str]:
        """Raises LookaheadError if these embeddings cannot serve a model described by ``base``; returns
        warnings if they only may serve it less well."""
        for what in ("architecture", "n_embd", "n_vocab", "tokenizer_sha256"):
            ours, theirs = getattr(self.base, what), getattr(base, what)
            if ours != theirs:
                raise LookaheadError(
                    f"this lookahead was made for {self.base.name!r} and does not fit {base.name!r}: "
                    f"{_IN_WORDS[what]} is {_short(ours)} there and {_short(theirs)} in the model"
                )
        if self.base.embeddings_sha256 != base.embeddings_sha256:
            return [
                "this lookahead was trained on other weights (another quantization?) of the same tokenizer"
            ]
        return []


_IN_WORDS = {
    "architecture": "the architecture",
    "n_embd": "the embedding width",
    "n_vocab": "the vocabulary size",
    "tokenizer_sha256": "the tokenizer's hash",
}


def _short(value: object) -> str:
    return f"{str(value)[:12]}…" if len(str(value)) > 24 else str(value)


def write_sidecar(lookahead: Lookahead, path: str | Path) -> None:
    """Write ``lookahead`` to ``path``; the file appears only once it is whole. Raises LookaheadError,
    OutputError."""
    _check_embeddings(lookahead.embeddings, path)
    weight = np.ascontiguousarray(lookahead.embeddings, np.float32)
    tensor = NewTensor(WEIGHT, GGML_TYPES["f32"], weight.shape, lambda: [weight])
    head = {Keys.TYPE: "adapter", Keys.ARCHITECTURE: lookahead.base.architecture}
    with written_whole(path) as unfinished:
        write_gguf(unfinished, head | lookahead_metadata(lookahead), [tensor])


def lookahead_metadata(lookahead: Lookahead) -> dict[str, Value]:
    """All that is told of ``lookahead`` beside its numbers."""
    base = lookahead.base
    metadata: dict[str, Value] = {
        Keys.VERSION: FORMAT_VERSION,
        Keys.COUNT: len(lookahead),
        Keys.WIDTH: base.n_embd,
        Keys.PREFIX: 0,
        Keys.HEAD: 0,
        Keys.BASE_NAME: base.name,
        Keys.BASE_VOCABULARY: base.n_vocab,
        Keys.BASE_TOKENIZER: base.tokenizer_sha256,
        Keys.BASE_EMBEDDINGS: base.embeddings_sha256,
        Keys.TRAINING: lookahead.training,
    }
    if lookahead.acceptance:
        metadata[Keys.ACCEPTANCE] = np.array(lookahead.acceptance, np.float32)
    return metadata


def read_lookahead(path: str | Path) -> Lookahead:
    """The lookahead in ``path``, a sidecar or a merged model. Raises LookaheadError (incomplete, absurd)
    or ModelError (not a GGUF file, damaged)."""
    with GgufFile(path) as file:
        if file.get(Keys.VERSION) is None:
            raise LookaheadError(f"{path} is a GGUF file but holds no lookahead")
        if file.get(Keys.VERSION) != FORMAT_VERSION:
            raise LookaheadError(
                f"{path} has format version {file.get(Keys.VERSION)}; this program reads {FORMAT_VERSION}"
            )
        shape = _required(file, Keys.COUNT, int), _required(file, Keys.WIDTH, int)
        embeddings = _weight(file, shape)
        _check_embeddings(embeddings, path)
        acceptance, training = file.get(Keys.ACCEPTANCE), file.get(Keys.TRAINING)
        return Lookahead(
            embeddings,
            _base(file),
            tuple(acceptance.tolist()) if isinstance(acceptance, np.ndarray) else (),
            training if isinstance(training, str) else "",
        )


def is_merged(path: str | Path) -> bool:
    """Whether ``path`` is a model with its lookahead inside. Raises ModelError."""
    with GgufFile(path) as file:
        return _is_merged(file)


def _is_merged(file: GgufFile) -> bool:
    return file.get(Keys.VERSION) is not None and file.get(Keys.TYPE) != "adapter"


def _base(file: GgufFile) -> Base:
    return Base(
        architecture=_required(file, Keys.ARCHITECTURE, str),
        name=_required(file, Keys.BASE_NAME, str),
        n_embd=_required(file, Keys.WIDTH, int),
        n_vocab=_required(file, Keys.BASE_VOCABULARY, int),
        tokenizer_sha256=_required(file, Keys.BASE_TOKENIZER, str),
        embeddings_sha256=_required(file, Keys.BASE_EMBEDDINGS, str),
    )


def _weight(file: GgufFile, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The embeddings: a tensor in a sidecar; an array in a merged model, where llama.cpp takes no
    tensor that it does not know."""
    tensor, flat = file.tensors.get(WEIGHT), file.get(WEIGHT)
    if tensor and tensor.type_name == "f32" and tensor.size <= 4 * MAX_COUNT * MAX_WIDTH:
        flat = np.frombuffer(b"".join(bytes(chunk) for chunk in file.chunks(tensor)), np.float32)
    if not isinstance(flat, np.ndarray) or flat.dtype != np.float32:
        raise LookaheadError(f"{file.path} has no {WEIGHT} in F32")
    stored = tensor.shape if tensor else (flat.size // max(1, shape[1]), shape[1])
    if stored != shape or flat.size != shape[0] * shape[1]:
        raise LookaheadError(
            f"{file.path}: {WEIGHT} is {stored[0]} × {stored[1]}, but the file says {shape[0]} × {shape[1]}"
        )
    return flat.reshape(shape)


def _required(file: GgufFile, key: str, kind: type[T]) -> T:
    value: Any = file.get(key)
    if value is None:
        raise LookaheadError(f"{file.path} lacks the key {key}")
    if not isinstance(value, kind):
        raise LookaheadError(f"{file.path}: {key} is {value!r}, not of type {kind.__name__}")
    return value


def _check_embeddings(embeddings: npt.NDArray[np.float32], path: str | Path) -> None:
    if embeddings.ndim != 2 or not (
        0 < len(embeddings) <= MAX_COUNT and 0 < embeddings.shape[1] <= MAX_WIDTH
    ):
        raise LookaheadError(
            f"{path}: lookahead embeddings of shape {embeddings.shape}; "
            f"expected at most {MAX_COUNT} × {MAX_WIDTH}"
        )
    if not np.isfinite(embeddings).all():
        raise LookaheadError(f"{path}: the lookahead embeddings hold numbers that are not finite")


def find_lookahead(model_path: Path, base: Base) -> Path | None:
    """The file to use when none is named: the model itself if one is merged into it, else
    ``MODEL.pass.gguf`` beside it, else a shipped sidecar that fits, else None."""
    if is_merged(model_path):
        return model_path
    beside = model_path.with_suffix(".pass.gguf")
    if beside.exists():
        return beside
    return next((path for path in shipped_sidecars() if _fits(path, base)), None)


def shipped_sidecars() -> Iterator[Path]:
    """The sidecars that come with this package."""
    folder = resources.files("pass_edge") / "data"
    return (Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".pass.gguf"))


def _fits(path: Path, base: Base) -> bool:
    try:
        read_lookahead(path).matches(base)
    except LookaheadError:
        return False
    return True
