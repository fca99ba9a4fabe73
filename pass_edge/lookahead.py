"""The lookahead of a model and its sidecar file: reading, writing, and whether it fits a model.

The format is described in docs/design.md; its keys and limits stand in the table below, which both
reader and writer use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LookaheadError
from pass_edge.native.model import Model, check_is_gguf

FORMAT_VERSION = 1
MAX_COUNT, MAX_WIDTH, MAX_FILE_SIZE = 64, 1 << 16, 1 << 28
WEIGHT = "pass.lookahead.weight"


class Keys:
    """GGUF keys of a sidecar; ``general.type`` and ``general.architecture`` stand beside them."""

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
    def of(cls, model: Model, embeddings: TokenEmbeddings) -> Base:
        return cls(
            architecture=model.architecture,
            name=model.metadata("general.name") or model.path.stem,
            n_embd=model.n_embd,
            n_vocab=model.n_vocab,
            tokenizer_sha256=model.vocabulary.fingerprint(),
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
    """Write ``lookahead`` to ``path``; the file appears only once it is whole. Raises LookaheadError."""
    from gguf import GGUFWriter

    _check_embeddings(lookahead.embeddings, path)
    base, unfinished = lookahead.base, Path(f"{path}.unfinished")
    writer = GGUFWriter(unfinished, base.architecture)
    writer.add_type("adapter")
    writer.add_uint32(Keys.VERSION, FORMAT_VERSION)
    writer.add_uint32(Keys.COUNT, len(lookahead))
    writer.add_uint32(Keys.WIDTH, base.n_embd)
    writer.add_uint32(Keys.PREFIX, 0)
    writer.add_uint32(Keys.HEAD, 0)
    writer.add_string(Keys.BASE_NAME, base.name)
    writer.add_uint32(Keys.BASE_VOCABULARY, base.n_vocab)
    writer.add_string(Keys.BASE_TOKENIZER, base.tokenizer_sha256)
    writer.add_string(Keys.BASE_EMBEDDINGS, base.embeddings_sha256)
    if lookahead.acceptance:
        writer.add_array(Keys.ACCEPTANCE, [float(share) for share in lookahead.acceptance])
    writer.add_string(Keys.TRAINING, lookahead.training)
    writer.add_tensor(WEIGHT, lookahead.embeddings)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(unfinished, path)
    except OSError as error:
        raise LookaheadError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_sidecar(path: str | Path) -> Lookahead:
    """The lookahead in ``path``. Raises LookaheadError (damaged, incomplete, absurd) or ModelError
    (not a GGUF file)."""
    path = check_is_gguf(Path(path))
    if path.stat().st_size > MAX_FILE_SIZE:
        raise LookaheadError(f"{path} is larger than any lookahead file; is it a model?")
    fields, tensors = _contents(path)
    if fields.get("general.type") != "adapter" or Keys.VERSION not in fields:
        raise LookaheadError(f"{path} is a GGUF file but holds no lookahead")
    if fields[Keys.VERSION] != FORMAT_VERSION:
        raise LookaheadError(
            f"{path} has format version {fields[Keys.VERSION]}; this program reads {FORMAT_VERSION}"
        )
    get = _required(fields, path)
    embeddings = tensors.get(WEIGHT)
    if embeddings is None:
        raise LookaheadError(f"{path} has no tensor {WEIGHT}")
    _check_embeddings(embeddings, path)
    if embeddings.shape != (get(Keys.COUNT, int), get(Keys.WIDTH, int)):
        raise LookaheadError(
            f"{path}: {WEIGHT} is {embeddings.shape[0]} × {embeddings.shape[1]}, but the file says "
            f"{fields[Keys.COUNT]} × {fields[Keys.WIDTH]}"
        )
    base = Base(
        architecture=get("general.architecture", str),
        name=get(Keys.BASE_NAME, str),
        n_embd=get(Keys.WIDTH, int),
        n_vocab=get(Keys.BASE_VOCABULARY, int),
        tokenizer_sha256=get(Keys.BASE_TOKENIZER, str),
        embeddings_sha256=get(Keys.BASE_EMBEDDINGS, str),
    )
    return Lookahead(embeddings, base, tuple(fields.get(Keys.ACCEPTANCE, ())), fields.get(Keys.TRAINING, ""))


def _contents(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    from gguf import GGMLQuantizationType, GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {
            t.name: np.array(t.data) for t in reader.tensors if t.tensor_type == GGMLQuantizationType.F32
        }
    except Exception as error:  # the reader meets damage with whatever its parsing trips over
        raise LookaheadError(f"{path} is damaged or cut off ({type(error).__name__}: {error})") from error
    return fields, tensors


def _required(fields: dict[str, Any], path: Path) -> Callable[[str, type], Any]:
    def get(key: str, kind: type) -> Any:
        if key not in fields:
            raise LookaheadError(f"{path} lacks the key {key}")
        if not isinstance(fields[key], kind):
            raise LookaheadError(f"{path}: {key} is {fields[key]!r}, not of type {kind.__name__}")
        return fields[key]

    return get


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
    """The sidecar to use when none is named: ``MODEL.pass.gguf`` beside the model, else a shipped one
    that fits, else None."""
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
        read_sidecar(path).matches(base)
    except LookaheadError:
        return False
    return True
