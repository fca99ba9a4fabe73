"""The lookahead: the parameters trained so that a model drafts its own next tokens.

*Lookahead embeddings* are inputs at the positions of tokens that are not known yet. A *prefix* is a run of
embeddings before the text that only lookahead tokens see. A *draft head* is a small network that turns a
state into the next one once the token between them is known (native/draft_head.py): one head is for the
outputs of lookahead tokens, the other for the model's own hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pass_edge.native.draft_head import HeadWeights
from pass_edge.native.errors import LookaheadError

MAX_COUNT, MAX_INPUTS, MAX_WIDTH = 64, 3, 1 << 16
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Base:
    """The identity of a model that a lookahead was trained for."""

    architecture: str
    name: str
    n_embd: int
    n_vocab: int
    tokenizer_sha256: str
    embeddings_sha256: str


def _no_candidates() -> npt.NDArray[np.int32]:
    return np.zeros(0, np.int32)


@dataclass(frozen=True)
class Lookahead:
    """The lookahead of one base model. Raises LookaheadError if the parts do not fit each other.

    ``embeddings``: (L, n_embd) float32; row k, at k + 1 positions after a token, drafts the token k + 2
    positions after it. L is 0 where only ``hidden_head`` drafts. ``prefix``: (P, n_embd) float32, at the
    positions from 0 on, seen by lookahead tokens alone. ``head``, ``hidden_head``: the draft heads on
    lookahead outputs and on hidden states. ``candidates``: (m,) int32, the tokens that heads score.
    ``acceptance``: the measured share of right first drafts, by depth. ``training``: how it was trained, as
    text for people.
    """

    embeddings: Floats
    base: Base
    acceptance: tuple[float, ...] = ()
    training: str = ""
    prefix: Floats | None = None
    head: HeadWeights | None = None
    hidden_head: HeadWeights | None = None
    candidates: npt.NDArray[np.int32] = field(default_factory=_no_candidates)

    def __post_init__(self) -> None:
        _check_rows("lookahead embeddings", self.embeddings, self.base, minimum=0 if self.hidden_head else 1)
        if self.prefix is not None:
            _check_rows("prefix", self.prefix, self.base, minimum=1)
        for head, max_inputs in ((self.head, MAX_INPUTS), (self.hidden_head, 2)):
            if head:
                _check_head(head, self.base, max_inputs)
        if self.head or self.hidden_head:
            _check_candidates(self.candidates, self.base)

    def __len__(self) -> int:
        return len(self.embeddings)

    def describe(self) -> str:
        """Return the parts of this lookahead as text."""
        parts = [f"{len(self)} tokens"] if len(self) else []
        parts += [f"a prefix of {len(self.prefix)}"] if self.prefix is not None else []
        parts += ["a head on their outputs"] if self.head else []
        parts += ["a head on hidden states"] if self.hidden_head else []
        return ", ".join(parts)

    def matches(self, base: Base) -> list[str]:
        """Check that this lookahead fits the model ``base``. Return warnings where it may draft less well.
        Raises LookaheadError if it does not fit."""
        for field_name, label in _LABELS.items():
            expected, found = getattr(self.base, field_name), getattr(base, field_name)
            if expected != found:
                raise LookaheadError(
                    f"this lookahead was made for {self.base.name!r} and does not fit {base.name!r}: "
                    f"{label} is {_short(expected)} there and {_short(found)} in the model"
                )
        if self.base.embeddings_sha256 != base.embeddings_sha256:
            return [
                "this lookahead was trained on other weights (another quantization?) of the same tokenizer"
            ]
        return []


_LABELS = {
    "architecture": "the architecture",
    "n_embd": "the embedding width",
    "n_vocab": "the vocabulary size",
    "tokenizer_sha256": "the tokenizer's hash",
}


def _short(value: object) -> str:
    return f"{str(value)[:12]}…" if len(str(value)) > 24 else str(value)


def _check_rows(name: str, rows: Floats, base: Base, *, minimum: int) -> None:
    if rows.ndim != 2 or not minimum <= len(rows) <= MAX_COUNT or rows.shape[1] != base.n_embd:
        raise LookaheadError(
            f"{name} of shape {rows.shape}; {base.name} takes {minimum} to {MAX_COUNT} rows of {base.n_embd}"
        )
    _check_finite(name, rows)


def _check_head(head: HeadWeights, base: Base, max_inputs: int) -> None:
    width, n_embd = head.width, base.n_embd
    shapes = head.gate.shape, head.up.shape, head.down.shape
    n_input = head.inputs * n_embd
    expected = ((width, n_input), (width, n_input), (n_embd, width))
    fits = shapes == expected and 2 <= head.inputs <= max_inputs
    if not 0 < width <= MAX_WIDTH or not fits:
        raise LookaheadError(f"a draft head of shapes {shapes} does not fit states of {n_embd}")
    for matrix in (head.gate, head.up, head.down):
        for _, numbers in matrix.chunks():
            _check_finite("draft head", numbers)
        matrix.release_pages()


def _check_candidates(candidates: npt.NDArray[np.int32], base: Base) -> None:
    unique = np.unique(candidates)
    if not len(unique) or len(unique) != len(candidates) or unique[0] < 0 or unique[-1] >= base.n_vocab:
        raise LookaheadError(
            f"the {len(candidates)} candidates of the draft head are not different tokens of {base.n_vocab}"
        )


def _check_finite(name: str, numbers: Floats) -> None:
    if not np.isfinite(numbers).all():
        raise LookaheadError(f"some numbers of the {name} are not finite")
