"""Convert a checkpoint with trained lookahead embeddings to a sidecar file for the runtime.

Checkpoints are safetensors or torch files (tensor_files.py). The embeddings are found in one of these:

- an L × n_embd tensor: the one named by the caller, one with a name in WELL_KNOWN, or the only one that fits;
- the rows after the vocabulary in a Hugging Face model's embedding matrix, to which L tokens were added
  (Monea et al. 2023, arXiv 2311.13581, section 3), without the padding rows after them;
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
from pass_edge.native.output_file import check_output_path

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
    """Write the lookahead embeddings in ``checkpoint``, a file or a directory, as a sidecar for ``model``.

    ``tensor``, ``rows``: the tensor and its rows that hold them, if that is ambiguous. F16 and BF16 are
    converted to F32 without loss. Raises LookaheadError, ModelError, OutputError.
    """
    check_output_path(output, overwrite, model, checkpoint)
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
    """Return the (L, n_embd) lookahead embeddings for ``base`` in ``checkpoint``. Reads no other rows.

    ``scale``: the factor that the model applies to rows of its embedding matrix (√n_embd in Gemma). It is
    applied to rows of such a matrix, not to separate embeddings. Raises LookaheadError.
    """
    tensors = [tensor for file in _files(checkpoint) for tensor in stored_tensors(file)]
    chosen = _find_named(tensors, tensor, checkpoint) if tensor else _choose(tensors, base, rows, checkpoint)
    if len(chosen.shape) != 2 or chosen.shape[1] != base.n_embd:
        raise LookaheadError(
            f"{checkpoint}: {chosen.name} is {chosen.size}; {base.name} takes embeddings {base.n_embd} wide"
        )
    if chosen.dtype not in FLOATS:
        raise LookaheadError(
            f"{checkpoint}: {chosen.name} is {chosen.dtype}; {', '.join(FLOATS)} can be read"
        )
    embeddings = chosen.read(_lookahead_rows(chosen, base, rows, checkpoint))
    return embeddings * np.float32(scale) if _is_matrix(chosen, base) else embeddings


def _is_matrix(tensor: StoredTensor, base: Base) -> bool:
    """Return whether it is a model's embedding matrix: it has more rows than lookahead may have."""
    return tensor.shape[0] > min(base.n_vocab, MAX_COUNT)


def _lookahead_rows(tensor: StoredTensor, base: Base, rows: range | None, checkpoint: Path) -> range:
    """Return the rows that are lookahead: ``rows`` if given, else those after the vocabulary, else all."""
    count = tensor.shape[0]
    if rows is None and _is_matrix(tensor, base):
        end = _tokenizer_end(checkpoint)
        # rows after those of the added tokens are padding
        rows = range(base.n_vocab, min(count, end) if end > base.n_vocab else count)
    elif rows is None:
        rows = range(count)
    if not (0 < len(rows) <= MAX_COUNT and rows.start >= 0 and rows.stop <= count):
        raise LookaheadError(
            f"{checkpoint}: {tensor.name} has {count} rows, and {len(rows)} from {rows.start} on cannot be "
            f"its lookahead; name the 1 to {MAX_COUNT} rows that are, with --rows FIRST:COUNT"
        )
    return rows


def _tokenizer_end(checkpoint: Path) -> int:
    """Return the highest id of the tokens added to the tokenizer in a model directory, plus one; 0 if none
    are listed."""
    entries = _read_json_if_exists(checkpoint / _TOKENIZER).get("added_tokens", [])
    ids = list(_read_json_if_exists(checkpoint / _ADDED_TOKENS).values())
    if isinstance(entries, list):
        ids += [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return max((id + 1 for id in ids if isinstance(id, int)), default=0)


def _files(checkpoint: Path) -> Sequence[Path]:
    try:
        if not checkpoint.is_dir():
            return [checkpoint]
        _check_adapter(checkpoint / _ADAPTER)
        index = next((checkpoint / name for name in _INDEXES if (checkpoint / name).exists()), None)
        names = _indexed_files(index) if index else _tensor_files(checkpoint)
    except OSError as error:
        raise LookaheadError(f"{checkpoint} cannot be read: {error.strerror}") from error
    if not names:
        raise LookaheadError(f"{checkpoint} holds no safetensors file and no torch file")
    return [checkpoint / name for name in names]


def _indexed_files(index: Path) -> list[str]:
    files = _read_json(index).get("weight_map", {})
    names: list[Any] = list(files.values()) if isinstance(files, dict) else [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise LookaheadError(f"{index} names files outside its directory")
    return sorted(set(names))


def _tensor_files(folder: Path) -> list[str]:
    """Return the folder's files of the first format in _PATTERNS that it has: others may hold the same
    tensors."""
    by_format = (sorted(file.name for file in folder.glob(pattern)) for pattern in _PATTERNS)
    return next(filter(None, by_format), [])


def _check_adapter(config: Path) -> None:
    # several prompt tokens for one position are averaged, which gives other drafts than one token
    count = _read_json_if_exists(config).get("virtual_tokens_per_special_token", 1)
    if count != 1:
        raise LookaheadError(
            f"{config} has {count} prompt tokens for each future position; only 1 can be converted"
        )


def _read_json_if_exists(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.exists() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise LookaheadError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LookaheadError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise LookaheadError(f"{path} holds no JSON object")
    return content


def _find_named(tensors: Sequence[StoredTensor], name: str, checkpoint: Path) -> StoredTensor:
    matching = [tensor for tensor in tensors if tensor.name == name]
    if len(matching) != 1:
        raise LookaheadError(f"{checkpoint} has {len(matching) or 'no'} tensors {name!r}; {_list(tensors)}")
    return matching[0]


def _choose(
    tensors: Sequence[StoredTensor], base: Base, rows: range | None, checkpoint: Path
) -> StoredTensor:
    """Return the tensor with a well-known name, else the only one with a shape that fits."""
    for name in WELL_KNOWN:
        known = [tensor for tensor in tensors if tensor.name == name]
        if known:
            return _find_named(known, name, checkpoint)
    fitting = [tensor for tensor in tensors if _may_hold(tensor, base, rows)]
    # of a resized embedding matrix and a resized output head, only the former holds inputs
    fitting = [tensor for tensor in fitting if tensor.name != "lm_head.weight"] or fitting
    if len(fitting) != 1:
        problem = "several tensors that fit" if fitting else "no tensor that fits"
        where = (
            f"alone or after {base.n_vocab} others" if rows is None else f"{rows.start} to {rows.stop - 1}"
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
