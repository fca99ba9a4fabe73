"""Inspect GGUF files: their kind, their lookahead, and which models and lookaheads fit each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pass_edge.drafting.lookahead import Base, Lookahead
from pass_edge.drafting.lookahead_file import read_base, read_lookahead
from pass_edge.models.sidecars import find_lookahead
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LookaheadError
from pass_edge.native.file_kind import Kind, kind_of, n_mtp_layers
from pass_edge.native.gguf_file import GgufFile

Report = dict[str, Any]


def inspect(paths: Sequence[Path]) -> Report:
    """Return a JSON-serializable report: ``files``, on each of ``paths``; ``pairs``, for each model and each
    lookahead whether they fit, and warnings or the reason why not. Reads no weights of models. Raises
    ModelError, LookaheadError."""
    files: list[Report] = []
    models: list[tuple[Path, Base]] = []
    lookaheads: list[tuple[Path, Lookahead]] = []
    for path in paths:
        with GgufFile(path) as file:
            kind = kind_of(file)
            if kind == Kind.LOOKAHEAD:
                lookaheads.append((path, read_lookahead(path)))
                files.append(_lookahead(*lookaheads[-1]))
            elif kind == Kind.TEXT:
                models.append((path, read_base(path)))
                files.append(_model(file, models[-1][1]))
            else:
                files.append({"file": str(path), "kind": kind.words, "bytes": path.stat().st_size})
    return {"files": files, "pairs": list(_pairs(models, lookaheads))}


def _model(file: GgufFile, base: Base) -> Report:
    lookahead = find_lookahead(file.path, base)
    return {
        "file": str(file.path),
        "kind": "merged model" if lookahead == file.path else "model",
        "bytes": sum(piece.stat().st_size for piece in file.pieces),
        "parameters": sum(math.prod(tensor.shape) for tensor in file.tensors.values()),
        "context_length": file.get(f"{base.architecture}.context_length"),
        "mtp_layers": n_mtp_layers(file),
        "token_embeddings": TokenEmbeddings(file).type_name,
        "chat_template": file.get("tokenizer.chat_template") is not None,
        "base": asdict(base),
        "lookahead": str(lookahead) if lookahead else None,
    }


def _lookahead(path: Path, lookahead: Lookahead) -> Report:
    return {
        "file": str(path),
        "kind": "lookahead",
        "holds": lookahead.describe(),
        "count": len(lookahead),
        "bytes": path.stat().st_size,
        "acceptance": list(lookahead.acceptance),
        "training": lookahead.training,
        "base": asdict(lookahead.base),
    }


def _pairs(
    models: Sequence[tuple[Path, Base]], lookaheads: Sequence[tuple[Path, Lookahead]]
) -> Iterator[Report]:
    for (model, base), (path, lookahead) in itertools.product(models, lookaheads):
        try:
            why, fits = lookahead.matches(base), True
        except LookaheadError as error:
            why, fits = [str(error)], False
        yield {"model": str(model), "lookahead": str(path), "fits": fits, "why": why}
