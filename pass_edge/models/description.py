"""What is said about a model in a list: its family, size, quantization, and the lookahead it has."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from pass_edge.drafting.lookahead_file import read_base
from pass_edge.native.errors import PassEdgeError
from pass_edge.native.file_kind import Kind, kind_of
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.quantize import FILE_TYPES

from .local_stores import StoredModel
from .repository import quantization_of
from .sidecars import find_lookahead

_TYPE_NAMES = {number: name for name, number in FILE_TYPES.items()}


@dataclass(frozen=True)
class Description:
    """A model on this disk. ``family``: its architecture, and its number of weights if the file states it, as
    in "qwen2 1.5B"; ``size`` in bytes; ``lookahead``: the file that drafts for it, "" for none; ``path``: of
    the first piece; ``problem``: why it cannot generate text, "" if it can."""

    name: str
    family: str
    size: int
    quantization: str
    lookahead: str
    store: str
    path: str
    problem: str


def describe(model: StoredModel) -> Description:
    """Return what the file of ``model`` says about it. A damaged one is described too."""
    family = lookahead = ""
    quantization = quantization_of(model.file or model.path.name)
    try:
        with GgufFile(model.path) as file:
            kind = kind_of(file)
            size_label = file.text("general.size_label")
            family = " ".join(filter(None, (file.text("general.architecture"), size_label)))
            quantization = quantization or _TYPE_NAMES.get(file.number("general.file_type") or 0, "")
            problem = "" if kind is Kind.TEXT else kind.words
            if kind is Kind.TEXT:
                with suppress(PassEdgeError):  # a file without embeddings has no lookahead
                    found = find_lookahead(file, read_base(file))
                    lookahead = str(found or "")
    except PassEdgeError as error:
        problem = str(error)
    return Description(
        model.name, family, model.size, quantization, lookahead, model.store, str(model.path), problem
    )
