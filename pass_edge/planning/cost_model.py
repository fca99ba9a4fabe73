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
from pass_edge.native.context import Context
from pass_edge.native.devices import default_threads
from pass_edge.settings import Settings, on_gpu

from .pass_times import IN_A_ROW, REPEATS, lengthen_text, pass_times, read_text

_VERSION = 8
_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
"""Rows of the measured passes; times between them are interpolated."""
_DEEP_WIDTHS = (1, 8)
"""Those measured after many tokens, too, and the widest."""
_SLOW_MODEL_WIDTHS = (1, *WIDTHS)
"""Instead of _WIDTHS for a slow model: those that calibration compares."""
_SLOW_PASS = 0.02
"""A model is slow if a pass over one row takes more seconds than this."""
_NARROW = 8
"""Most rows of the passes that most steps need. Wider ones of a slow model are measured only once."""
_SHALLOW, _DEEP = 8, 1024
"""Tokens before the measured passes."""
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
        reading_seconds = time.perf_counter() - began
        is_slow = (known[0] if known else pass_times(context, _SHALLOW, [1], repeats=1)[0]) > _SLOW_PASS
        if is_slow:  # beside its passes, the rebuilding of a graph is nothing
            in_a_row, repeats, rebuild_seconds = 1, 2, 0.0
            widths, deep_widths = _up_to(widest, _SLOW_MODEL_WIDTHS), _up_to(min(widest, _NARROW), (1,))
            shallow = _slow_pass_times(context, widths, known)
        else:
            repeats = REPEATS
            widths, deep_widths = _up_to(widest, _WIDTHS), _up_to(widest, _DEEP_WIDTHS)
            shallow = pass_times(context, _SHALLOW, widths, in_a_row=in_a_row)
            rebuild_seconds = _rebuild_seconds(context, widths[:2], shallow[:2])
        cells, position = lengthen_text(
            context, _SHALLOW, min(_DEEP, context.settings.cells - in_a_row * widest), reading_seconds
        )
        slopes = np.zeros(len(widths))
        if cells > _SHALLOW:
            deep = pass_times(context, position, deep_widths, in_a_row=in_a_row, repeats=repeats)
            added = np.maximum(0, deep - shallow[np.isin(widths, deep_widths)])
            slopes = np.interp(widths, deep_widths, added / (cells - _SHALLOW))
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


def _rebuild_seconds(context: Context, widths: list[int], reused: Doubles) -> float:
    """Measure what rebuilding the graph adds to passes of ``widths`` rows that take ``reused`` without."""
    rebuilt = pass_times(context, _SHALLOW, widths, repeats=2 * REPEATS)
    return max(0.0, float((rebuilt - reused).mean()))


def _up_to(widest: int, widths: tuple[int, ...]) -> list[int]:
    return [*(width for width in widths if width < widest), widest]
