"""What was trained for a model so that it drafts its own next tokens, and whether it fits a model.

*Lookahead embeddings* are inputs in the place of tokens not known yet; a *prefix* is what only they see
before the text; a *draft head* is a small network that corrects a state once the token behind it is known
(native/draft_head.py): one for the outputs of lookahead tokens, one for the model's own hidden states.
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
    """The model that a lookahead belongs to, as far as a file can tell."""

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
    """What was trained for one base model. Raises LookaheadError if it cannot be.

    ``embeddings``: (L, n_embd) float32; row k, standing k + 1 positions after a token, drafts the
    token k + 2 positions after it. L is 0 where only ``hidden_head`` drafts. ``prefix``: (P, n_embd) float32,
    at the positions before the text, seen by lookahead tokens alone. ``head``, ``hidden_head``: the draft
    heads on lookahead outputs and on hidden states; ``candidates``: (m,) int32, the tokens that heads score.
    ``acceptance``: measured share of right first drafts by depth. ``training``: how it was made, for people.
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
        _check_rows("lookahead embeddings", self.embeddings, self.base, least=0 if self.hidden_head else 1)
        if self.prefix is not None:
            _check_rows("prefix", self.prefix, self.base, least=1)
        for head, most in ((self.head, MAX_INPUTS), (self.hidden_head, 2)):
            if head:
                _check_head(head, self.base, most)
        if self.head or self.hidden_head:
            _check_candidates(self.candidates, self.base)

    def __len__(self) -> int:
        return len(self.embeddings)

    def in_words(self) -> str:
        """What there is, for people."""
        parts = [f"{len(self)} tokens"] if len(self) else []
        parts += [f"a prefix of {len(self.prefix)}"] if self.prefix is not None else []
        parts += ["a head on their outputs"] if self.head else []
        parts += ["a head on hidden states"] if self.hidden_head else []
        return ", ".join(parts)

    def matches(self, base: Base) -> list[str]:
        """Raises LookaheadError if this cannot serve a model described by ``base``; returns
        warnings if it only may serve it less well."""
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


def _check_rows(what: str, rows: Floats, base: Base, *, least: int) -> None:
    if rows.ndim != 2 or not least <= len(rows) <= MAX_COUNT or rows.shape[1] != base.n_embd:
        raise LookaheadError(
            f"{what} of shape {rows.shape}; {base.name} takes {least} to {MAX_COUNT} rows of {base.n_embd}"
        )
    _check_finite(what, rows)


def _check_head(head: HeadWeights, base: Base, most_inputs: int) -> None:
    width, n_embd = head.width, base.n_embd
    shapes = head.gate.shape, head.up.shape, head.down.shape
    told = head.inputs * n_embd
    fits = shapes == ((width, told), (width, told), (n_embd, width)) and 2 <= head.inputs <= most_inputs
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


def _check_finite(what: str, numbers: Floats) -> None:
    if not np.isfinite(numbers).all():
        raise LookaheadError(f"the {what} hold numbers that are not finite")
