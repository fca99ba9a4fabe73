"""Trained lookahead embeddings as people save them, to the sidecar file that the runtime reads.

Files are safetensors or torch's (tensor_files.py). Where the embeddings are:

- an L × n_embd tensor with one of WELL_KNOWN's names, the one that is named, or the only one that fits;
- the rows of a Hugging Face model's embedding matrix that stand behind its vocabulary, to which L tokens
  were added (Monea et al. 2023, arXiv 2311.13581, section 3), without those of padding behind them;
- the prompt tokens of a parallel-prompt-decoding adapter (Chen et al. 2024, arXiv 2405.18628,
  section 3.1), which PEFT saves as ``prompt_embeddings``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pass_edge.drafting.lookahead import MAX_COUNT, Base, Lookahead
from pass_edge.drafting.lookahead_file import read_base, write_sidecar
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LookaheadError
from pass_edge.native.output_file import check_free

from .tensor_files import FLOATS, StoredTensor, stored_tensors

WELL_KNOWN = (
    "lookahead.weight",
    "prompt_embeddings",
    "prompt_encoder.default.embedding.weight",
    "base_model.prompt_embeddings",
)
"""Names of L × n_embd tensors, tried in this order."""
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
_ADAPTER = "adapter_config.json"
_TOKENIZER, _ADDED_TOKENS = "tokenizer.json", "added_tokens.json"


def convert(
    checkpoint: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    tensor: str | None = None,
    rows: range | None = None,
    overwrite: bool = False,
    acceptance: tuple[float, ...] = (),
    training: str = "",
) -> Lookahead:
    """Write the lookahead embeddings in ``checkpoint``, a file or a directory of them, as a sidecar for
    ``model``. ``tensor`` names them where that is not clear, and ``rows`` tells which rows of it they are.
    F16 and BF16 become the same numbers in F32.
    Raises LookaheadError, ModelError, OutputError."""
    check_free(output, overwrite, model, checkpoint)
    base = read_base(model)
    embeddings = read_embeddings(Path(checkpoint), base, tensor, rows, scale=TokenEmbeddings(model).scale)
    lookahead = Lookahead(embeddings, base, acceptance, training)
    write_sidecar(lookahead, output)
    return lookahead


def read_embeddings(
    checkpoint: Path,
    base: Base,
    tensor: str | None = None,
    rows: range | None = None,
    *,
    scale: float | np.float32 = 1,
) -> npt.NDArray[np.float32]:
    """The (L, n_embd) lookahead embeddings for ``base`` in ``checkpoint``. Reads no other row.
    ``scale``: what the model multiplies rows of its embedding matrix by (√n_embd in Gemma), which
    those in it are, and embeddings of their own are not. Raises LookaheadError."""
    found = [tensor for file in _files(checkpoint) for tensor in stored_tensors(file)]
    chosen = _named(found, tensor, checkpoint) if tensor else _choose(found, base, rows, checkpoint)
    if len(chosen.shape) != 2 or chosen.shape[1] != base.n_embd:
        raise LookaheadError(
            f"{checkpoint}: {chosen.name} is {chosen.size}; {base.name} takes embeddings {base.n_embd} wide"
        )
    if chosen.dtype not in FLOATS:
        raise LookaheadError(
            f"{checkpoint}: {chosen.name} is {chosen.dtype}; {', '.join(FLOATS)} can be read"
        )
    embeddings = chosen.read(_wanted(chosen, base, rows, checkpoint))
    return embeddings * np.float32(scale) if _is_matrix(chosen, base) else embeddings


def _is_matrix(tensor: StoredTensor, base: Base) -> bool:
    """Whether it is a model's embedding matrix: more rows than lookahead may have."""
    return tensor.shape[0] > min(base.n_vocab, MAX_COUNT)


def _wanted(tensor: StoredTensor, base: Base, rows: range | None, checkpoint: Path) -> range:
    """The rows that are lookahead: ``rows`` if given, else those behind the vocabulary, else all."""
    there = tensor.shape[0]
    if rows is None and _is_matrix(tensor, base):
        added = _tokenizer_end(checkpoint)
        # rows that none of the added tokens has are padding
        rows = range(base.n_vocab, min(there, added) if added > base.n_vocab else there)
    elif rows is None:
        rows = range(there)
    if not (0 < len(rows) <= MAX_COUNT and rows.start >= 0 and rows.stop <= there):
        raise LookaheadError(
            f"{checkpoint}: {tensor.name} has {there} rows, and {len(rows)} from {rows.start} on cannot be "
            f"its lookahead; tell which 1 to {MAX_COUNT} of them are, with --rows FIRST:COUNT"
        )
    return rows


def _tokenizer_end(checkpoint: Path) -> int:
    """One more than the highest id of the tokens added to the tokenizer in a model directory; 0 if it tells
    of none."""
    entries = _json_if_there(checkpoint / _TOKENIZER).get("added_tokens", [])
    ids = list(_json_if_there(checkpoint / _ADDED_TOKENS).values())
    if isinstance(entries, list):
        ids += [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return max((id + 1 for id in ids if isinstance(id, int)), default=0)


def _files(checkpoint: Path) -> Sequence[Path]:
    try:
        if not checkpoint.is_dir():
            return [checkpoint]
        _check_adapter(checkpoint / _ADAPTER)
        index = next((checkpoint / name for name in _INDEXES if (checkpoint / name).exists()), None)
        names = _indexed(index) if index else _found(checkpoint)
    except OSError as error:
        raise LookaheadError(f"{checkpoint} cannot be read: {error.strerror}") from error
    if not names:
        raise LookaheadError(f"{checkpoint} holds no safetensors file, nor one of torch's")
    return [checkpoint / name for name in names]


def _indexed(index: Path) -> list[str]:
    files = _json(index).get("weight_map", {})
    names: list[Any] = list(files.values()) if isinstance(files, dict) else [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise LookaheadError(f"{index} names files outside its directory")
    return sorted(set(names))


def _found(folder: Path) -> list[str]:
    """The files of the first kind that the folder has: others may hold the same again."""
    kinds = (sorted(file.name for file in folder.glob(pattern)) for pattern in _PATTERNS)
    return next(filter(None, kinds), [])


def _check_adapter(config: Path) -> None:
    # an ensemble of prompt tokens for one position shares it, and is averaged: a different draft
    each = _json_if_there(config).get("virtual_tokens_per_special_token", 1)
    if each != 1:
        raise LookaheadError(
            f"{config} has {each} prompt tokens for each future position; only 1 can be converted"
        )


def _json_if_there(path: Path) -> dict[str, Any]:
    return _json(path) if path.exists() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise LookaheadError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LookaheadError(f"{path} is no readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise LookaheadError(f"{path} holds no JSON object")
    return content


def _named(tensors: Sequence[StoredTensor], name: str, checkpoint: Path) -> StoredTensor:
    found = [tensor for tensor in tensors if tensor.name == name]
    if len(found) != 1:
        raise LookaheadError(f"{checkpoint} has {len(found) or 'no'} tensors {name!r}; {_list(tensors)}")
    return found[0]


def _choose(
    tensors: Sequence[StoredTensor], base: Base, rows: range | None, checkpoint: Path
) -> StoredTensor:
    """A tensor of a well-known name, else the only one of a shape that lookahead embeddings have."""
    for name in WELL_KNOWN:
        known = [tensor for tensor in tensors if tensor.name == name]
        if known:
            return _named(known, name, checkpoint)
    fitting = [tensor for tensor in tensors if _may_hold(tensor, base, rows)]
    # a resized output head beside a resized embedding matrix: only the latter is an input
    fitting = [tensor for tensor in fitting if tensor.name != "lm_head.weight"] or fitting
    if len(fitting) != 1:
        problem = "several tensors that fit" if fitting else "no tensor that fits"
        where = (
            f"alone or behind {base.n_vocab} others" if rows is None else f"{rows.start} to {rows.stop - 1}"
        )
        raise LookaheadError(
            f"{checkpoint} has {problem} {base.name} (1 to {MAX_COUNT} rows of {base.n_embd}, {where}); "
            f"name one with --tensor, or its rows with --rows FIRST:COUNT: {_list(fitting or tensors)}"
        )
    return fitting[0]


def _may_hold(tensor: StoredTensor, base: Base, rows: range | None) -> bool:
    if len(tensor.shape) != 2 or tensor.shape[1] != base.n_embd:
        return False
    if rows is not None:
        return rows.stop <= tensor.shape[0]
    return 0 < tensor.shape[0] <= MAX_COUNT or 0 < tensor.shape[0] - base.n_vocab <= MAX_COUNT


def _list(tensors: Sequence[StoredTensor]) -> str:
    shown = ", ".join(f"{tensor.name} ({tensor.size})" for tensor in tensors[:6])
    return f"it holds {shown or 'nothing'}" + (f" and {len(tensors) - 6} more" if len(tensors) > 6 else "")
