"""The cost of a forward pass on this machine: T(n, depth), in seconds, for n rows after ``depth`` tokens.

It is measured once for a library, a model and settings, and stored. Then every step that runs corrects it, so
that it follows a machine that slows down or is busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pass_edge.calibration.calibration import WIDTHS
from pass_edge.calibration.measurement_cache import load, run_key, store
from pass_edge.drafting.tree import TreeLimits
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.devices import default_threads
from pass_edge.settings import Settings, on_gpu

_VERSION = 7
_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
"""Rows of the measured passes; times between them are interpolated."""
_DEEP_WIDTHS = (1, 8, 32)
"""Instead of _WIDTHS after many tokens."""
_SLOW_MODEL_WIDTHS = (1, *WIDTHS)
"""Instead of _WIDTHS for a slow model: those that calibration compares."""
_SLOW_PASS = 0.02
"""A model is slow if a pass over one row takes more seconds than this."""
_NARROW = 8
"""Most rows of the passes that most steps need. Wider ones of a slow model are measured only once."""
_SHALLOW, _LEAST_DEEP, _DEEP = 8, 256, 1024
"""Tokens before the measured passes: few, and many, but not so few that what they add is noise."""
_REPEATS = 4
_TIME_LIMIT, _READING_LIMIT = 1.0, 1.0
"""Seconds that measuring at one depth may take before widths are not measured again, and that reading the
text before it may take, where it cannot be repeated."""
IN_A_ROW = 4
"""Passes of one width in a row on a GPU: the first builds the graph, the next may record it, and later ones
only use it."""
_FASTER, _MUCH_FASTER, _MUCH_SLOWER = 0.95, 0.75, 1.25
"""A time counts as faster only below this share of the other: within one measurement, and compared to a
stored one. Smaller differences are noise. Above _MUCH_SLOWER, it will not turn out to be faster."""
_CORRECTION_RATE = 0.1
"""Weight of the newest step in the correction of the measured times."""

Doubles = npt.NDArray[np.float64]


class StepCosts:
    """The seconds that steps of 1 … ``widest`` rows take, with the time outside llama.cpp.

    Attributes: ``widest``; ``threads``, those of the measurement, for one row and for several; None where
    the threads are set elsewhere.
    """

    def __init__(
        self,
        widths: Doubles,
        seconds: Doubles,
        slopes: Doubles,
        rebuild_seconds: float = 0.0,
        threads: tuple[int, int] | None = None,
    ) -> None:
        """``widths``: (k,) numbers of rows, ascending from 1. ``seconds``: (k,) of steps with so many rows
        in an empty cache, each after a step of the same width. ``slopes``: (k,) seconds added for each token
        of depth. ``rebuild_seconds``: added after a step of another width, for which llama.cpp rebuilds its
        graph."""
        self.threads, self._rebuild_seconds = threads, rebuild_seconds
        self._last_rows = 1
        self.widest = int(widths[-1])
        rows = np.arange(1, self.widest + 1)
        self._seconds = np.interp(rows, widths, seconds)
        self._slopes = np.interp(rows, widths, slopes)
        # factors that correct the measured times: one for all widths, and besides one for each. ``observe``
        # runs between passes, where numpy would take 20 times as long as floats do
        self._common_factor = 1.0
        self._width_factors = [1.0] * self.widest

    def at(self, depth: int) -> Doubles:
        """Return the seconds of steps of 1, 2, … rows after ``depth`` tokens, (widest,) float64."""
        factors = self._common_factor * np.array(self._width_factors)
        return (self._seconds + self._slopes * depth) * factors

    @property
    def rebuild_seconds(self) -> float:
        """Seconds added to a step whose width is not that of the last one, because the graph is rebuilt."""
        return self._rebuild_seconds * self._common_factor

    def observe(self, rows: int, depth: int, seconds: float, weight: float = 1.0) -> None:
        """Correct the costs by a step that took ``seconds``. ``weight``: less than 1 where several
        conversations observe the same step.

        Other widths are corrected half as much as that of the step: a busy machine slows down all of them,
        and widths that do not run must not look better for that.
        """
        if rows > self.widest:
            return
        i = rows - 1
        measured = float(self._seconds[i]) + float(self._slopes[i]) * depth
        expected = measured * self._width_factors[i] + self._rebuild_seconds * (rows != self._last_rows)
        self._last_rows = rows
        error = seconds / (expected * self._common_factor)
        error = min(max(error, 0.25), 4.0)  # limits the effect of a single outlier
        correction = error ** (0.5 * _CORRECTION_RATE * weight)
        self._common_factor *= correction
        self._width_factors[i] *= correction


def step_costs(
    context: Context,
    settings: Settings,
    widest: int,
    note: Callable[[str], None] = lambda _: None,
    known: Sequence[float] = (),
) -> StepCosts:
    """Return the costs of steps of up to ``widest`` rows, and set the threads of ``context`` that are best.

    They are measured if none are stored, or if the machine was busy when they were measured. ``context``:
    made with ``settings``, empty, and left empty. ``note``: progress callback. ``known``: the seconds of
    passes over 1, 2, … rows, if they were measured just now.
    """
    shape = f"{widest} {context.settings.cells} {context.n_rollback}"
    key = f"{_VERSION} {shape} {run_key(context.model.path, settings)}"
    stored = load("costs", key)
    costs = _costs(stored) if stored else None
    if costs is None or _was_busy(context, costs):
        note("measuring what steps cost on this machine (once)")
        threads, cores = None, default_threads()
        if not settings.threads:
            threads = _best_threads(context, cores, widest, known)
            known = known if threads == (cores, cores) else ()
        in_a_row = IN_A_ROW if on_gpu(settings) else 2
        widths, seconds, slopes, rebuild_seconds = _measure(context, widest, in_a_row, known)
        measured = [widths, seconds.tolist(), slopes.tolist(), rebuild_seconds, threads]
        store("costs", key, measured)
        costs = _costs(measured)
    if costs.threads:
        context.set_threads(*costs.threads)
    return costs


def _costs(stored: Any) -> StepCosts:
    """Return the costs in a measurement: [widths, seconds, slopes, rebuild seconds, threads]."""
    widths, seconds, slopes, rebuild_seconds, threads = stored
    return StepCosts(
        np.array(widths, np.float64),
        np.array(seconds, np.float64),
        np.array(slopes, np.float64),
        rebuild_seconds,
        tuple(threads) if threads else None,
    )


def _best_threads(context: Context, cores: int, widest: int, known: Sequence[float]) -> tuple[int, int]:
    """Return the fastest numbers of threads, for one row and for several: all ``cores``, or half of them
    where the other half are hyper-threads or slow cores. ``known``: as for ``step_costs``, with all cores.

    If half of them take much longer for one row, they do for several too, which need more arithmetic."""
    half, threads = cores // 2, [cores, cores]
    try:
        for i, width in enumerate((1, min(_NARROW, widest)) if half else ()):
            seconds = known[width - 1] if known else _seconds_with(context, cores, width)
            ratio = _seconds_with(context, half, width) / seconds
            if ratio < _FASTER:
                threads[i] = half
            elif ratio > _MUCH_SLOWER:
                break
    finally:
        context.clear()
    single, several = threads
    context.set_threads(single, several)
    return single, several


def _seconds_with(context: Context, threads: int, width: int) -> float:
    """Measure the seconds of a pass over ``width`` rows with so many threads."""
    context.set_threads(threads, threads)
    return float(pass_times(context, 0, [width], repeats=2)[0])


def _was_busy(context: Context, costs: StepCosts) -> bool:
    """Return whether passes are faster now than ``costs`` say, or would be with all cores. Then the machine
    was busy when they were measured, and they would stay too high."""
    cores = default_threads()
    widths = [1, min(8, costs.widest)] if costs.threads and min(costs.threads) < cores else [1]
    if costs.threads:
        context.set_threads(*costs.threads)
    try:
        now = pass_times(context, 0, widths, repeats=2)
        faster = (now < _MUCH_FASTER * costs.at(0)[np.array(widths) - 1]).any()
        if len(widths) > 1:
            context.set_threads(cores, cores)
            faster |= (pass_times(context, 0, widths, repeats=2) < _FASTER * now).any()
        return bool(faster)
    finally:
        context.clear()


def _measure(
    context: Context, widest: int, in_a_row: int, known: Sequence[float]
) -> tuple[list[int], Doubles, Doubles, float]:
    """Measure widths, seconds, slopes and rebuild seconds, as StepCosts takes them. ``known``: as for
    ``step_costs``, with the threads of ``context``."""
    context.clear()
    try:
        began = time.perf_counter()
        read_text(context, 0, _SHALLOW)
        seconds_per_token = (time.perf_counter() - began) / _SHALLOW
        is_slow = (known[0] if known else _pass_time(context, _SHALLOW, 1)) > _SLOW_PASS
        if is_slow:  # beside its passes, the rebuilding of a graph is nothing
            in_a_row, rebuild_seconds = 1, 0.0
            widths = _up_to(widest, _SLOW_MODEL_WIDTHS)
            shallow = _slow_pass_times(context, widths, known)
        else:
            widths = _up_to(widest, _WIDTHS)
            shallow = pass_times(context, _SHALLOW, widths, in_a_row=in_a_row)
            rebuild_seconds = _rebuild_seconds(context, widths[:2], shallow[:2])
        depth = min(_DEEP, context.settings.cells - widest)
        slopes, position = np.zeros(len(widths)), _SHALLOW
        if _may_repeat_text(context):
            _repeat_text(context, depth // _SHALLOW)
        else:
            depth = position = min(depth, int(_READING_LIMIT / seconds_per_token))
            read_text(context, _SHALLOW, depth)
        if depth >= _LEAST_DEEP:
            deep_widths = _up_to(min(widest, _NARROW) if is_slow else widest, _DEEP_WIDTHS)
            turns = 2 if is_slow else _REPEATS
            deep = pass_times(context, position, deep_widths, in_a_row=in_a_row, repeats=turns)
            added = np.maximum(0, deep - shallow[np.isin(widths, deep_widths)])
            slopes = np.interp(widths, deep_widths, added / (depth - _SHALLOW))
    finally:
        context.clear()
    seconds = np.maximum(shallow - slopes * _SHALLOW, shallow / 2)  # noise must not make them too small
    return widths, seconds, slopes, rebuild_seconds


def _slow_pass_times(context: Context, widths: list[int], known: Sequence[float]) -> Doubles:
    """Return the seconds of passes after few tokens: of narrow ones the faster of two."""
    narrow = [width for width in widths if width <= _NARROW]
    if known:
        seconds = np.array([known[width - 1] for width in widths])
    else:
        seconds = pass_times(context, _SHALLOW, widths, repeats=1)
    again = pass_times(context, _SHALLOW, narrow, repeats=1)
    seconds[: len(narrow)] = np.minimum(seconds[: len(narrow)], again)
    return seconds


def _may_repeat_text(context: Context) -> bool:
    """Return whether a text that is repeated takes the time of a longer one: a recurrent state has no length,
    and with sliding windows, some layers see only the last tokens."""
    model = context.model
    window = model.metadata(f"{model.architecture}.attention.sliding_window")
    return not model.is_recurrent and not window and context.settings.sequences > 1


def _repeat_text(context: Context, times: int) -> None:
    """Repeat the KV cells of sequence 0, so that there are ``times`` as many. All copies of a token have its
    position, and the next token sees them all: no time is needed to read a long text."""
    cells = context.save_sequence(0)
    for _ in range(times - 1):
        context.restore_sequence(1, cells)
        context.copy(1, 0, 0)
        context.remove(1, 0)


def _up_to(widest: int, widths: tuple[int, ...]) -> list[int]:
    return [*(width for width in widths if width < widest), widest]


def _rebuild_seconds(context: Context, widths: list[int], reused: Doubles) -> float:
    """Measure what rebuilding the graph adds to passes of ``widths`` rows that take ``reused`` without."""
    rebuilt = pass_times(context, _SHALLOW, widths, repeats=2 * _REPEATS)
    return max(0.0, float((rebuilt - reused).mean()))


def read_text(context: Context, start: int, end: int) -> None:
    """Decode tokens at the positions [start, end) of sequence 0."""
    size = context.settings.batch_size
    for first in range(start, end, size):
        count = min(size, end - first)
        context.decode_tokens(rows_of_sequence(first, count, outputs=1), _unlike_tokens(context, count))
        context.logits(1)  # waits until they are decoded


def pass_times(
    context: Context, depth: int, widths: list[int], *, in_a_row: int = 1, repeats: int = _REPEATS
) -> Doubles:
    """Measure the seconds of a pass over each of ``widths`` rows after ``depth`` tokens; (k,) float64.

    The widths take turns, ``repeats`` times if the time limit allows, and the fastest pass counts: other
    processes only add time. ``in_a_row``: passes of one width in each turn; all but the first reuse its
    graph.
    """
    seconds: list[list[float]] = [[] for _ in widths]
    deadline = time.perf_counter() + _TIME_LIMIT
    for repeat in range(repeats):
        for passes, width in zip(seconds, widths, strict=True):
            if repeat and time.perf_counter() > deadline:
                break
            passes += [_pass_time(context, depth, width) for _ in range(in_a_row)]
    return np.array([min(passes) for passes in seconds])


def _pass_time(context: Context, depth: int, width: int) -> float:
    rows = rows_of_sequence(depth, width, outputs=width)
    state = context.save_state(0)
    began = time.perf_counter()
    if width - 1 > TreeLimits.of(context).n_kept:  # as before each pass with so many drafts
        context.save_state(0)
    context.decode_tokens(rows, _unlike_tokens(context, width))
    context.logits(width)
    elapsed = time.perf_counter() - began
    context.restore_state(0, state, depth)
    return elapsed


def _unlike_tokens(context: Context, count: int) -> npt.NDArray[np.int32]:
    """Return ``count`` token ids that differ, as a text's do: a mixture of experts then reads as many experts
    for them as for a text, while equal tokens would all be sent to the same few."""
    return np.random.default_rng(0).integers(context.model.n_vocab, size=count, dtype=np.int32)
