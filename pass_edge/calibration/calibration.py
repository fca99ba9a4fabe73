"""How many tokens may share a forward pass on this machine without changing each other's bits.

Our kernels (`native/kernels/`) give a token the same bits in any company. ggml picks other kernels for
other batch sizes, and some round differently (K-quants on AVX2: from 4 tokens on when repacked, from 8 on
otherwise). What holds is measured once per library, model and settings, and remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import ModelError
from pass_edge.native.library_probe import check_verdict, gpu_works, probe
from pass_edge.native.model import Model, check_loads
from pass_edge.settings import PROMPT_BATCH, Settings, context_settings

from .measurement_cache import library_key, load, run_key, store

WIDTHS = (2, 3, 4, 7, 8, 16, 32)
"""Batch sizes tried, from narrow to wide: ggml's kernels change at 2, 4 and 8, or never."""
_ENOUGH = 16
_PROMPT = 64
"""Tokens of a prompt that is read at once: from 64 on, ggml has another kernel for attention."""
_SHALLOW = 24
# From 512 cells on, the CPU backend splits the cache over its threads for a single token where K and V
# have one type, and then rounds differently: there, what holds must be measured at that depth.
_DEEP = 512
# A difference in the last bits often vanishes when activations are rounded to int8 again, so a token may
# agree by luck; of these many, some will not.
_TRIED = 8


@dataclass(frozen=True)
class Calibration:
    """``repack``: whether weights are laid out for the CPU backend's fastest kernels. ``width``: most
    tokens that one pass may hold so that each gets the bits it would get alone (1: the backend is
    not batch-invariant). ``embeddings_exact``: whether embedding batches give the bits of token
    batches (without it there are no lookahead tokens). ``difference``: the largest logit difference
    seen in batches of the next size; where ``width`` is 1, of any. ``prompts_exact``: whether a prompt may be
    read in larger batches, too, with the same bits."""

    repack: bool
    width: int
    embeddings_exact: bool
    difference: float
    prompts_exact: bool = True

    @property
    def prompt_batch(self) -> int:
        """Tokens of a prompt to read at once: as many as keep a text from depending on what of its prompt was
        cached, unless that would be few."""
        return PROMPT_BATCH if self.prompts_exact or self.width < _ENOUGH else self.width

    @property
    def widest_step(self) -> int:
        """Most rows a step may decode: where nothing is invariant, there is nothing to protect."""
        return self.width if self.width > 1 else max(WIDTHS)


def calibrate(path: Path, settings: Settings, note: Callable[[str], None]) -> Calibration:
    """The calibration of a model file, measured if it is not remembered. ``note`` is told of long work."""
    key = run_key(path, settings)
    known = load("calibration", key)
    if known is not None:
        return Calibration(**known)
    may_repack = check_verdict(library_verdict(note))
    check_loads(path)
    note("measuring this model on this machine (once)")
    best = _measure(path, settings, repack=may_repack)
    if may_repack and best.width < _ENOUGH:
        other = _measure(path, settings, repack=False)
        best = max(best, other, key=lambda calibration: calibration.width)
    store("calibration", key, asdict(best))
    return best


def library_verdict(note: Callable[[str], None]) -> str:
    """The probe's verdict on the llama.cpp library in use, taken once for each build."""
    text = "testing the llama.cpp library on this machine (once)"
    return str(_found_once("library", probe, note, text))


def gpu_verdict(note: Callable[[str], None]) -> bool:
    """Whether llama.cpp decodes on the GPU here, tried until it has once for this build and GPU: what kept it
    from that may have been another process."""
    return bool(_found_once("gpu", gpu_works, note, "testing llama.cpp on the GPU (once)"))


def _found_once(
    kind: str, find: Callable[[], str | bool], note: Callable[[str], None], text: str
) -> str | bool:
    known: str | bool | None = load(kind, library_key())
    if known is None:
        note(text)
        known = find()
        if known:
            store(kind, library_key(), known)
    return known


def _measure(path: Path, settings: Settings, *, repack: bool) -> Calibration:
    with Model(path, gpu_layers=settings.gpu_layers or 0, repack=repack) as model:
        if not model.can_roll_back:
            return Calibration(repack, 1, False, 0.0)
        wanted = context_settings(model, settings, cells=_DEEP + _PROMPT)
        depth = _DEEP if wanted.cache_type_k == wanted.cache_type_v else _SHALLOW
        with Context(model, wanted) as context:
            trial = _Trial(context, depth)
            width, difference = trial.invariant_width()
            exact = trial.embeddings_are_exact()
            return Calibration(repack, width, exact, difference, trial.prompts_are_exact(width))


class _Trial:
    """The same random tokens behind the same random prompt, in batches of one width and another."""

    def __init__(self, context: Context, depth: int) -> None:
        self._context, self._depth = context, depth
        rng = np.random.default_rng(0)
        prompt, self._tokens = (
            rng.integers(0, context.model.n_vocab, count).astype(np.int32) for count in (depth, _PROMPT)
        )
        context.decode_tokens(rows_of_sequence(0, depth), prompt)
        self._known = self._decode(0, _TRIED, 1)

    def invariant_width(self) -> tuple[int, float]:
        """The widest of WIDTHS that gave the bits of single tokens, and how far the next one was off; where
        there is none, how far any was, because all of them will be used."""
        invariant, difference = 1, 0.0
        for width in WIDTHS:
            found = self._largest_difference(width, invariant)
            if found and invariant > 1:
                return invariant, found
            difference = max(difference, found)
            if not difference:
                invariant = width
        return invariant, difference

    def _largest_difference(self, width: int, invariant: int) -> float:
        """From the bits of single tokens, which batches of ``invariant`` give too: those are quicker."""
        count = max(_TRIED, width) // width * width
        if len(self._known) < count:
            self._context.remove(0, self._depth + len(self._known))
            self._known = np.concatenate([self._known, self._decode(len(self._known), count, invariant)])
        self._context.remove(0, self._depth)
        return float(np.abs(self._decode(0, count, width) - self._known[:count]).max())

    def prompts_are_exact(self, width: int) -> bool:
        """Whether many tokens at once give the last one the bits that batches of ``width`` give it."""
        last = []
        for batch in (width, _PROMPT):
            self._context.remove(0, self._depth)
            last.append(self._decode(0, _PROMPT, batch, all_outputs=False)[-1])
        return bool((last[0] == last[1]).all())

    def _decode(self, start: int, end: int, width: int, *, all_outputs: bool = True) -> np.ndarray:
        """The logits of the tokens [start, end), decoded in batches of ``width``: of all, or of each batch's
        last."""
        found = []
        for first in range(start, end, width):
            some = self._tokens[first : min(first + width, end)]
            outputs = len(some) if all_outputs else 1
            self._context.decode_tokens(
                rows_of_sequence(self._depth + first, len(some), outputs=outputs), some
            )
            found.append(self._context.logits(outputs).copy())
        return np.concatenate(found)

    def embeddings_are_exact(self) -> bool:
        """Whether an embedding row gives the bits of its token."""
        try:
            rows = TokenEmbeddings(self._context.model.path).rows(self._tokens[:1])
        except ModelError:
            return False
        self._context.remove(0, self._depth)
        self._context.decode_embeddings(rows_of_sequence(self._depth, 1, outputs=1), rows)
        return bool((self._context.logits(1)[0] == self._known[0]).all())
