"""What a GGUF file is, what lookahead it carries, and which of several files fit each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pass_edge.lookahead import Base, Keys, find_lookahead, read_sidecar
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LookaheadError
from pass_edge.native.model import Model, has_key

Report = dict[str, Any]


def inspect(paths: Sequence[Path]) -> Report:
    """``files``: a report on each of ``paths``, as JSON holds it; ``pairs``: for each model and each
    lookahead among them whether they fit, and what speaks against it. Raises ModelError, LookaheadError."""
    files = [_lookahead(path) if has_key(path, Keys.VERSION) else _model(path) for path in paths]
    return {"files": files, "pairs": list(_pairs(files))}


def _model(path: Path) -> Report:
    with Model(path, gpu_layers=0, repack=False) as model:
        embeddings = TokenEmbeddings(model)
        base = Base.of(model, embeddings)
        found = find_lookahead(path, base)
        return {
            "file": str(path),
            "kind": "model",
            "description": model.description,
            "bytes": path.stat().st_size,
            "context_length": model.n_ctx_train,
            "token_embeddings": embeddings.type_name,
            "can_roll_back": model.can_roll_back,
            "chat_template": model.chat_template() is not None,
            "base": asdict(base),
            "lookahead": str(found) if found else None,
        }


def _lookahead(path: Path) -> Report:
    lookahead = read_sidecar(path)
    return {
        "file": str(path),
        "kind": "lookahead",
        "count": len(lookahead),
        "bytes": path.stat().st_size,
        "acceptance": list(lookahead.acceptance),
        "training": lookahead.training,
        "base": asdict(lookahead.base),
    }


def _pairs(files: Sequence[Report]) -> Iterator[Report]:
    models, sidecars = ([file for file in files if file["kind"] == kind] for kind in ("model", "lookahead"))
    for model, sidecar in itertools.product(models, sidecars):
        try:
            warnings = read_sidecar(sidecar["file"]).matches(Base(**model["base"]))
            fits = True
        except LookaheadError as error:
            warnings, fits = [str(error)], False
        yield {"model": model["file"], "lookahead": sidecar["file"], "fits": fits, "why": warnings}
