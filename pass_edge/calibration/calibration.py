"""Measure how many tokens may share a forward pass without changing each other's bits.

Our kernels (`native/kernels/`) give a token the same bits in a batch of any size. ggml uses different kernels
for different batch sizes, and some round differently (K-quants on AVX2: from 4 tokens on when repacked, from
8 on otherwise). The result is measured once per library, model and settings, and stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import ContextError, ModelError
from pass_edge.native.library_probe import check_verdict, gpu_works, probe
from pass_edge.native.model import Model, check_loads, mtp_error
from pass_edge.settings import MAX_RECURRENT_DRAFTS, PROMPT_BATCH, Settings, context_settings

from .measurement_cache import library_key, load, load_or_measure, model_key, run_key, store

_VERSION = 4
"""Of what is stored."""
WIDTHS = (2, 3, 4, 7, 8, 16, 32)
"""Batch sizes to compare, ascending. ggml's kernels change at 2, 4, 8, 16, 32 and 64, or never."""
_SUFFICIENT_WIDTH = 16
"""Below this width, unpacked weights are tried too, and prompts are not read in batches of it: too slow."""
_PROMPT_LENGTH = 64
"""Tokens of a prompt read at once: from 64 on, ggml uses another attention kernel."""
_SHALLOW, _DEEP = 8, 512
"""Tokens before the compared ones. From 512 KV cells on, where K and V have one type, the CPU backend splits
the cache over its threads for a single token, and rounds differently; there the deep one is needed."""
_LEAST_TOKENS, _MOST_TOKENS = 4, 16
"""Tokens to compare, in a large model and in a small one. A difference in the last bits often vanishes when
activations are rounded to int8 again, so one token may agree by chance. Once a token differs, so do those
after it. With llama.cpp's kernels in Q4_K_M, of the tokens decoded in fours the first to differ was the fifth
or sixth with 135 million weights, one of the first three with 0.5 billion, and the first with 1.5 billion."""
_COMPARED_BYTES = 4 << 30
"""Weights to read for the tokens that are decoded one by one: so many tokens are compared."""
_HIDDEN_DIFFERENCE = 0.05
"""Logits by which other tokens are taken to differ if hidden states do and the compared logits do not. With
llama.cpp's products of F32 matrices in small models of two kinds, 4 to 78 of 1,200 logprobs differed, by at
most 0.04."""


@dataclass(frozen=True)
class Calibration:
    """Which passes give a token the bits that it gets alone.

    ``repack``: whether weights are repacked for the CPU backend's fastest kernels. ``width``: the most tokens
    of a pass in which each gets the same bits as alone; 1 means that the backend is not batch-invariant.
    ``embeddings_exact``: whether embedding batches give the bits of token batches; if not, there are no
    lookahead tokens. ``difference``: the largest logit difference measured in batches of the next size; where
    ``width`` is 1, in batches of any size. ``prompts_exact``: whether larger batches, for prompts, give the
    same bits too. ``hidden_exact``: whether passes that keep hidden states have logits, with the same bits;
    if not, no head drafts from them. ``state_bytes``: the size of the recurrent state of one conversation, 0
    without one. ``keeps_states``: whether llama.cpp keeps the states of the last tokens, so that these can be
    taken back. ``rolls_back``: whether a recurrent memory that was returned to an earlier state continues as
    one that never left it. ``mtp_exact``: whether passes that keep states for MTP layers give the same bits;
    if not, these draft nothing. The fields are stored (measurement_cache.py) under these names, but for
    ``seconds``: those of passes over 1, 2, … rows, if they were compared just now.
    """

    repack: bool
    width: int
    embeddings_exact: bool
    difference: float
    prompts_exact: bool = True
    hidden_exact: bool = True
    state_bytes: int = 0
    keeps_states: bool = False
    rolls_back: bool = True
    mtp_exact: bool = True
    seconds: tuple[float, ...] = ()

    @property
    def prompt_batch(self) -> int:
        """Tokens of a prompt to decode at once. Where larger batches change bits, ``width``, so that a text
        does not depend on how much of its prompt was cached; but not where that would be too slow."""
        return PROMPT_BATCH if self.prompts_exact or self.width < _SUFFICIENT_WIDTH else self.width

    @property
    def widest_step(self) -> int:
        """Most rows of a step. Where the backend is not batch-invariant at all, steps need not be narrow."""
        return self.width if self.width > 1 else max(WIDTHS)


def open_calibrated(
    path: Path, settings: Settings, open_model: Callable[[bool], Model], note: Callable[[str], None]
) -> tuple[Model, Calibration]:
    """Open the model in ``path`` and return it with its calibration, measured if none is stored.

    ``open_model``: opens it; takes whether weights are repacked. ``note``: progress callback; it is called
    with one line before long work. Raises ModelError, LibraryError.
    """
    key = f"{_VERSION} {run_key(path, settings)}"
    stored = load("calibration", key)
    if stored is not None:
        calibration = Calibration(**stored)
        return open_model(calibration.repack), calibration
    may_repack = check_model(path, note)
    note("measuring this model on this machine (once)")
    model, best = _measured(open_model, settings, repack=may_repack)
    if may_repack and best.width < _SUFFICIENT_WIDTH:
        model.close()
        model, unpacked = _measured(open_model, settings, repack=False)
        if unpacked.width > best.width:
            best = unpacked
        else:
            model.close()
            model = open_model(True)
    lasting = asdict(best)
    del lasting["seconds"]
    store("calibration", key, lasting)
    return model, best


def check_model(path: Path, note: Callable[[str], None]) -> bool:
    """Check that llama.cpp works here and can load ``path``, once for a build and a file. Return whether
    weights may be repacked. Raises LibraryError, ModelError."""
    key = f"{library_key()} {model_key(path)}"
    with ThreadPoolExecutor(1) as pool:  # each of them waits for a process
        loads = None if load("loads", key) else pool.submit(check_loads, path)
        may_repack = check_verdict(library_verdict(note))
    if loads:
        loads.result()
        store("loads", key, True)
    return may_repack


def mtp_works(path: Path) -> bool:
    """Return whether llama.cpp can run the MTP layers in ``path``; tried once for a build and a file."""
    key = f"{library_key()} {model_key(path)}"
    return load_or_measure("mtp", key, lambda: not mtp_error(path))


def library_verdict(note: Callable[[str], None]) -> str:
    """Return the probe's verdict on the llama.cpp library in use. It runs once for each build."""
    message = "testing the llama.cpp library on this machine (once)"
    return str(_measured_once("library", probe, note, message))


def gpu_verdict(note: Callable[[str], None]) -> bool:
    """Return whether llama.cpp decodes on the GPU here. A success is stored for this build and GPU; a failure
    is not, because another process may have caused it."""
    return bool(_measured_once("gpu", gpu_works, note, "testing llama.cpp on the GPU (once)"))


def _measured_once(
    kind: str, measure: Callable[[], str | bool], note: Callable[[str], None], message: str
) -> str | bool:
    result: str | bool | None = load(kind, library_key())
    if result is None:
        note(message)
        result = measure()
        if result:
            store(kind, library_key(), result)
    return result


def _measured(
    open_model: Callable[[bool], Model], settings: Settings, *, repack: bool
) -> tuple[Model, Calibration]:
    """Open a model and measure it."""
    model = open_model(repack)
    try:
        return model, _measure(model, settings, repack=repack)
    except BaseException:
        model.close()
        raise


def _measure(model: Model, settings: Settings, *, repack: bool) -> Calibration:
    chosen = context_settings(model, settings, cells=_DEEP + _PROMPT_LENGTH)
    depth = _DEEP if chosen.cache_type_k == chosen.cache_type_v else _SHALLOW
    # the states that a memory keeps for drafts change the graph, so they must not change the bits
    with Context(model, replace(chosen, rollback=MAX_RECURRENT_DRAFTS)) as context:
        comparison = _BatchComparison(context, depth)
        if comparison.is_damaged:
            raise ModelError(f"{model.path}: its logits are not numbers, so the file is damaged")
        if not comparison.restores:
            return Calibration(repack, 1, False, 0.0, rolls_back=False, state_bytes=comparison.state_bytes)
        width, difference = comparison.invariant_width()
        embeddings_exact = comparison.embeddings_are_exact()
        rolls_back = comparison.rolls_back(2 * difference)
        mtp_exact = not model.n_mtp_layers or comparison.mtp_states_are_exact(width)
        return Calibration(
            repack, width, embeddings_exact, difference, comparison.prompts_exact, comparison.hidden_exact,
            comparison.state_bytes, context.n_rollback > 0, rolls_back, mtp_exact, comparison.seconds(),
        )  # fmt: skip


class _BatchComparison:
    """Decodes the same random tokens after the same random prompt in batches of different widths, and
    compares their outputs: their logits, and their hidden states if a pass can have both. Hidden states
    differ more often, because logits are computed from activations that were rounded to int8.

    Attributes: ``state_bytes``, ``hidden_exact``: as in Calibration. ``is_damaged``: whether there are
    outputs that are not numbers. ``restores``: whether a copy of the recurrent state gives the bits of the
    context that it was made in; if not, nothing else can be compared.
    """

    def __init__(self, context: Context, depth: int) -> None:
        self._context, self._depth, self._n_vocab = context, depth, context.model.n_vocab
        self._seconds: dict[int, float] = {}  # of the fastest pass over so many rows
        rng = np.random.default_rng(0)
        prompt, self._tokens = (
            rng.integers(0, self._n_vocab, count).astype(np.int32) for count in (depth, _PROMPT_LENGTH)
        )
        fitting = _COMPARED_BYTES // context.model.size
        self._n_tokens = min(max(_LEAST_TOKENS, fitting), _MOST_TOKENS)
        context.decode_tokens(rows_of_sequence(0, depth), prompt)
        self._state = context.save_state(0)
        self.state_bytes = len(self._state)
        self.hidden_exact = False  # until it is seen
        self._reference = self._continue(self._n_tokens, 1)
        self.is_damaged = bool(np.isnan(self._reference).any())
        self.restores = not self.state_bytes or not self._difference(1)
        if self.restores:
            self._see_hidden()

    @cached_property
    def prompts_exact(self) -> bool:
        """Whether a prompt read at once gives its tokens the bits that narrower batches give them."""
        return not self._difference(_PROMPT_LENGTH)

    def invariant_width(self) -> tuple[int, float]:
        """Return the largest of WIDTHS that gives the bits of single tokens, and the largest difference at
        the next one. If none does, return 1 and the largest difference at any, because all of them are
        used."""
        invariant, largest = 1, 0.0
        for width in WIDTHS:
            # each operation over so many rows has the kernel of the width before, or that of a prompt
            if width == WIDTHS[-1] and invariant > 1 and self.prompts_exact:
                return width, 0.0
            difference = self._difference(width)
            if difference and invariant > 1:
                return invariant, difference
            largest = max(largest, difference)
            if not largest:
                invariant = width
        return invariant, largest

    def _difference(self, width: int) -> float:
        """Return the largest difference of a logit in batches of ``width`` from the reference. Where there is
        none, and there are more outputs than in the reference, they replace it."""
        outputs = self._decode(max(self._n_tokens, width) // width * width, width)
        count = min(len(outputs), len(self._reference))
        differences = np.abs(outputs[:count] - self._reference[:count])
        differences = np.nan_to_num(differences, nan=np.inf)  # no number agrees with none
        if not differences.any() and len(outputs) > count:
            self._reference = outputs
        of_logits, of_hidden = differences[:, : self._n_vocab], differences[:, self._n_vocab :]
        return max(float(of_logits.max()), _HIDDEN_DIFFERENCE * bool(of_hidden.any()))

    def _decode(self, count: int, width: int) -> np.ndarray:
        """Decode the first ``count`` tokens after the prompt in batches of ``width``, which divides it.
        Return their outputs: (count, n_vocab) float32, or with hidden states (count, n_vocab + n_embd)."""
        self._rewind()
        return self._continue(count, width)

    def _continue(self, count: int, width: int) -> np.ndarray:
        """``_decode`` in a context that is at the end of the prompt."""
        outputs = []
        for first in range(0, count, width):
            tokens = self._tokens[first : first + width]
            rows = rows_of_sequence(self._depth + first, width, outputs=width)
            began = time.perf_counter()
            self._context.decode_tokens(rows, tokens)
            self._context.logits(width)  # waits for them
            self._seconds[width] = min(time.perf_counter() - began, self._seconds.get(width, np.inf))
            outputs.append(self._outputs(width))
        return np.concatenate(outputs)

    def _outputs(self, count: int) -> np.ndarray:
        logits = self._context.logits(count)
        return np.hstack([logits, self._context.hidden(count)]) if self.hidden_exact else logits.copy()

    def seconds(self) -> tuple[float, ...]:
        """Return the seconds of passes over 1 … max(WIDTHS) rows, interpolated between those decoded so far.
        There are none for a recurrent memory, because the states that it keeps here take time."""
        if self.state_bytes:
            return ()
        widths = sorted(self._seconds)
        rows = range(1, WIDTHS[-1] + 1)
        return tuple(np.interp(rows, widths, [self._seconds[width] for width in widths]).tolist())

    def embeddings_are_exact(self) -> bool:
        """Return whether an embedding row gives the same bits as its token."""
        try:
            rows = TokenEmbeddings(self._context.model.path).rows(self._tokens[:1])
        except ModelError:
            return False
        self._rewind()
        self._context.decode_embeddings(rows_of_sequence(self._depth, 1, outputs=1), rows)
        return bool((self._outputs(1)[0] == self._reference[0]).all())

    def _see_hidden(self) -> None:
        """Find whether a pass that keeps hidden states has logits, and the same ones. If so, hidden states
        are compared too from now on."""
        self._rewind()
        self._context.logits(1)[:] = np.nan  # llama.cpp has no logits at all in some such graphs
        self._context.keep_hidden(True)
        self.hidden_exact = True
        outputs = self._continue(self._n_tokens, 1)
        self.hidden_exact = np.array_equal(outputs[:, : self._n_vocab], self._reference)
        if self.hidden_exact:
            self._reference = outputs
        else:
            self._context.keep_hidden(False)

    def mtp_states_are_exact(self, width: int) -> bool:
        """Return whether passes that keep states for MTP layers give the same logits, in batches of up to
        ``width``. They keep them from now on."""
        try:
            self._context.keep_mtp_states()
        except ContextError:
            return False
        return not self._difference(min(width, self._n_tokens))

    def rolls_back(self, tolerance: float) -> bool:
        """Return whether the states that llama.cpp keeps give the same logits but for ``tolerance``, after
        wrong tokens were taken back."""
        differences, reference = [0.0], self._reference[1, : self._n_vocab]
        for n_wrong in range(1, self._context.n_rollback + 1):
            self._rewind()
            rows = rows_of_sequence(self._depth, 1 + n_wrong)
            self._context.decode_tokens(rows, np.append(self._tokens[:1], self._tokens[-n_wrong:]))
            self._context.remove(0, self._depth + 1)
            self._context.decode_tokens(rows_of_sequence(self._depth + 1, 1, outputs=1), self._tokens[1:2])
            differences.append(float(np.abs(self._context.logits(1)[0] - reference).max()))
        return max(differences) <= tolerance

    def _rewind(self) -> None:
        """Return to the end of the prompt."""
        self._context.restore_state(0, self._state, self._depth)
