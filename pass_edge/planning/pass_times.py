"""Measure how long forward passes take."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from pass_edge.drafting.tree import TreeLimits
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context

IN_A_ROW = 4
"""Passes of one width in a row on a GPU: the first builds the graph, the next may record it, and later ones
only use it."""
REPEATS = 4
_TIME_LIMIT, _READING_LIMIT = 1.0, 1.0
"""Seconds that measuring may take before widths are not measured again, and that reading a long text may
take: a slow model is measured less often."""
_LEAST_LONG = 256
"""A text of fewer tokens adds less to a pass than noise."""


def read_text(context: Context, start: int, end: int) -> None:
    """Decode tokens at the positions [start, end) of sequence 0."""
    size = context.settings.batch_size
    for first in range(start, end, size):
        count = min(size, end - first)
        context.decode_tokens(rows_of_sequence(first, count, outputs=1), _unlike_tokens(context, count))
        context.logits(1)  # waits until they are decoded


def lengthen_text(context: Context, start: int, end: int, seconds: float) -> tuple[int, int]:
    """Lengthen the text in sequence 0 from ``start`` tokens, which took ``seconds``, to ``end``, or less if
    that would take long. Return how many KV cells the next token sees, and its position."""
    if _sees_repeated_text(context):
        _repeat_text(context, end // start)
        return end // start * start, start
    end = min(end, int(_READING_LIMIT * start / seconds))
    if end < _LEAST_LONG:
        return start, start
    read_text(context, start, end)
    return end, end


def _sees_repeated_text(context: Context) -> bool:
    """Return whether a repeated text takes the time of a longer one: a recurrent state has no length, and
    with a sliding window, some layers see only the last tokens."""
    model = context.model
    window = model.metadata(f"{model.architecture}.attention.sliding_window")
    return not model.is_recurrent and not window and context.settings.sequences > 1


def _repeat_text(context: Context, times: int) -> None:
    """Repeat the KV cells of sequence 0, so that there are ``times`` as many. All copies of a token have its
    position, and the next token sees them all."""
    cells = context.save_sequence(0)
    for _ in range(times - 1):
        context.restore_sequence(1, cells)
        context.copy(1, 0, 0)
        context.remove(1, 0)


def pass_times(
    context: Context, depth: int, widths: list[int], *, in_a_row: int = 1, repeats: int = REPEATS
) -> npt.NDArray[np.float64]:
    """Measure the seconds of a pass over each of ``widths`` rows after ``depth`` tokens; (k,) float64.

    The widths take turns, ``repeats`` times if the time limit allows, and the fastest pass counts: other
    processes only add time. ``in_a_row``: passes of one width in each turn, one after the other as in
    decoding, or as many as the cache holds; all but the first reuse the first one's graph.
    """
    seconds: list[list[float]] = [[] for _ in widths]
    deadline = time.perf_counter() + _TIME_LIMIT
    for repeat in range(repeats):
        for passes, width in zip(seconds, widths, strict=True):
            if repeat and time.perf_counter() > deadline:
                break
            fitting = max(1, (context.settings.cells - depth) // width)
            state = context.save_state(0)
            passes += [_pass_time(context, depth + i * width, width) for i in range(min(in_a_row, fitting))]
            context.restore_state(0, state, depth)
    return np.array([min(passes) for passes in seconds])


def _pass_time(context: Context, depth: int, width: int) -> float:
    rows, tokens = rows_of_sequence(depth, width, outputs=width), _unlike_tokens(context, width)
    began = time.perf_counter()
    if width - 1 > TreeLimits.of(context).n_kept:  # as before each pass with so many drafts
        context.save_state(0)
    context.decode_tokens(rows, tokens)
    context.logits(width)
    return time.perf_counter() - began


def _unlike_tokens(context: Context, count: int) -> npt.NDArray[np.int32]:
    """Return ``count`` token ids that differ, as a text's do: a mixture of experts then reads as many experts
    for them as for a text, while equal tokens would all be sent to the same few."""
    return np.random.default_rng(0).integers(context.model.n_vocab, size=count, dtype=np.int32)
