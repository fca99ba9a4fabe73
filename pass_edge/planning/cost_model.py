"""What a forward pass costs on this machine: T(n, depth), for n rows behind ``depth`` tokens.

Measured once for a library, a model and settings, in seconds, and remembered; then corrected by every step
that runs, so that a machine that slows down, or is busy, is followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pass_edge.calibration.measurement_cache import load, run_key, store
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context
from pass_edge.native.devices import default_threads
from pass_edge.settings import Settings, on_gpu

_VERSION = 5
_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
_FEWER_WIDTHS, _FEWEST_WIDTHS = (1, 2, 3, 4, 6, 8, 16, 32), (1, 8)
"""Of a model whose passes take long, and behind many tokens: what lies between is interpolated."""
_LONG = 0.02
"""Seconds of a pass over one row."""
_SHALLOW, _DEEP = 32, 1024
_REPEATS = 4
_SECONDS = 1.5
"""What measuring at one depth, and reading the text that makes the depth, may each take; a slow model is
measured less."""
IN_A_ROW = 4
"""Passes of one width on a GPU: the first makes the graph, the next may record it, later ones only use it."""
_CLEARLY, _MUCH = 0.95, 0.75
"""Of the time it takes: what is faster by less is held to be noise, within one measurement and from one to
another."""
_FOLLOWS = 0.1  # weight of the newest step in what corrects the measured times

Doubles = npt.NDArray[np.float64]


class StepCosts:
    """Seconds that steps of 1 … ``widest`` rows take, outside llama.cpp included."""

    def __init__(
        self,
        widths: Doubles,
        seconds: Doubles,
        slopes: Doubles,
        switching: float = 0.0,
        threads: tuple[int, int] | None = None,
    ) -> None:
        """At ``widths`` (k,) rows, ascending from 1: ``seconds`` (k,) behind an empty cache and a step of as
        many rows, and ``slopes`` (k,) seconds more for each token of depth. ``switching``: seconds more
        behind a step of other width. ``threads``: what they were measured with, one row and more; None where
        somebody else sees to that."""
        self.threads, self._switching = threads, switching
        self._last = 1
        self.widest = int(widths[-1])
        rows = np.arange(1, self.widest + 1)
        self._seconds = np.interp(rows, widths, seconds)
        self._slopes = np.interp(rows, widths, slopes)
        # what a step of all widths, and beyond that of its own, takes more than was measured; this is asked
        # between all passes, and numpy takes 20 times as long for it as floats do
        self._common = 1.0
        self._own = [1.0] * self.widest

    def at(self, depth: int) -> Doubles:
        """(widest,) seconds of a step of 1, 2, … rows behind ``depth`` tokens."""
        return (self._seconds + self._slopes * depth) * (self._common * np.array(self._own))

    @property
    def switching(self) -> float:
        """Seconds that a step takes more whose width is not the last one's: its graph is made anew."""
        return self._switching * self._common

    def observe(self, rows: int, depth: int, seconds: float, weight: float = 1.0) -> None:
        """A step ran; ``weight`` is less than 1 where several tell of it. What it says of its own width, it
        says half as loud of all others: a busy machine slows all down, and those that do not run must not
        look better for that."""
        if rows > self.widest:
            return
        i = rows - 1
        measured = float(self._seconds[i]) + float(self._slopes[i]) * depth
        expected = measured * self._own[i] + self._switching * (rows != self._last)
        self._last = rows
        error = seconds / (expected * self._common)
        error = min(max(error, 0.25), 4.0)  # one hiccup is no trend
        step = error ** (0.5 * _FOLLOWS * weight)
        self._common *= step
        self._own[i] *= step


def step_costs(
    context: Context, settings: Settings, widest: int, note: Callable[[str], None] = lambda _: None
) -> StepCosts:
    """The costs for ``context`` (empty, and left so) made with ``settings``, up to ``widest`` rows a step;
    measured if they are not remembered, or if the machine was busy when they were."""
    key = f"{_VERSION} {widest} {context.settings.cells} {run_key(context.model.path, settings)}"
    costs = _sound(load("costs", key))
    if costs is None or _was_busy(context, costs):
        note("measuring what steps cost on this machine (once)")
        threads = None if settings.threads else _best_threads(context, default_threads(), widest)
        in_a_row = IN_A_ROW if on_gpu(settings) else 2
        measured = [*_measured(context, widest, in_a_row), threads]
        store("costs", key, measured)
        costs = _sound(measured)
        assert costs, "what was measured makes sense"
    if costs.threads:
        context.set_threads(*costs.threads)
    return costs


def _sound(known: Any) -> StepCosts | None:
    """What was measured, or is remembered; None where that is nothing, or makes no sense."""
    try:
        *lists, switching, threads = known
        arrays = [np.array(values, np.float64) for values in lists]
        widths, seconds, slopes = arrays
        if threads is not None:
            threads = (int(threads[0]), int(threads[1]))
        sound = len(widths) == len(seconds) == len(slopes) and widths[0] == 1 and (np.diff(widths) > 0).all()
        sound = (
            sound
            and 0 <= switching < np.inf
            and np.isfinite(arrays).all()
            and (seconds + slopes > 0).all()
            and (slopes >= 0).all()
        )
        return StepCosts(widths, seconds, slopes, float(switching), threads) if sound else None
    except (TypeError, ValueError, IndexError):
        return None


def _best_threads(context: Context, cores: int, widest: int) -> tuple[int, int]:
    """For one row and for several: all cores, or half of them, where the others are hyper-threads or slow."""
    counts = sorted({cores, max(1, cores // 2)}, reverse=True)
    times: dict[int, tuple[float, float]] = {}
    try:
        for count in counts:
            context.clear()
            context.set_threads(count, count)
            read_text(context, 0, _SHALLOW)
            single, several = pass_times(context, _SHALLOW, [1, min(8, widest)], repeats=2)
            times[count] = single, several
    finally:
        context.clear()
    all_cores, fewer = times[counts[0]], times[counts[-1]]
    single, several = (counts[-1 if fewer[i] < _CLEARLY * all_cores[i] else 0] for i in (0, 1))
    context.set_threads(single, several)
    return single, several


def _was_busy(context: Context, costs: StepCosts) -> bool:
    """Whether passes are faster now than is remembered, or would be with all cores: then the machine had
    other work when it was measured, and would be held to be slow for ever."""
    cores = default_threads()
    widths = [1, min(8, costs.widest)] if costs.threads and min(costs.threads) < cores else [1]
    if costs.threads:
        context.set_threads(*costs.threads)
    try:
        now = pass_times(context, 0, widths, repeats=2)
        faster = (now < _MUCH * costs.at(0)[np.array(widths) - 1]).any()
        if len(widths) > 1:
            context.set_threads(cores, cores)
            faster |= (pass_times(context, 0, widths, repeats=2) < _CLEARLY * now).any()
        return bool(faster)
    finally:
        context.clear()


def _measured(
    context: Context, widest: int, in_a_row: int
) -> tuple[list[float], list[float], list[float], float]:
    """Widths, seconds, slopes and what switching takes, as StepCosts takes them."""
    context.clear()
    try:
        began = time.perf_counter()
        read_text(context, 0, _SHALLOW)
        pace = (time.perf_counter() - began) / _SHALLOW
        long = _time(context, _SHALLOW, 1) > _LONG
        widths = [width for width in (_FEWER_WIDTHS if long else _WIDTHS) if width <= widest]
        shallow = pass_times(context, _SHALLOW, widths, in_a_row=in_a_row)
        switched = pass_times(context, _SHALLOW, widths[:2], repeats=2 * _REPEATS)
        switching = max(0.0, float((switched - shallow[:2]).mean()))
        deep = min(_DEEP, context.settings.cells - widest, int(_SECONDS / pace))
        slopes = np.zeros(len(widths))
        if deep >= 4 * _SHALLOW:
            read_text(context, _SHALLOW, deep)
            few = [width for width in (_FEWEST_WIDTHS if long else widths) if width in widths]
            deeper = pass_times(context, deep, few, in_a_row=in_a_row)
            more = np.maximum(0, deeper - shallow[np.isin(widths, few)]) / (deep - _SHALLOW)
            slopes = np.interp(widths, few, more)
    finally:
        context.clear()
    seconds = np.maximum(shallow - slopes * _SHALLOW, shallow / 2)  # whatever the noise was like
    return list(map(float, widths)), seconds.tolist(), slopes.tolist(), switching


def read_text(context: Context, start: int, end: int) -> None:
    """Fill positions [start, end) of sequence 0."""
    size = context.settings.batch_size
    for first in range(start, end, size):
        count = min(size, end - first)
        context.decode_tokens(rows_of_sequence(first, count, outputs=1), np.zeros(count, np.int32))
        context.logits(1)  # waits for it


def pass_times(
    context: Context, depth: int, widths: list[int], *, in_a_row: int = 1, repeats: int = _REPEATS
) -> Doubles:
    """Seconds of a pass of each of ``widths``, interleaved, ``repeats`` times if there is time for it; the
    least of them: what else runs now only adds, and need not run later. ``in_a_row``: of one width one after
    the other; the first makes the graph that others find."""
    times: list[list[float]] = [[] for _ in widths]
    deadline = time.perf_counter() + _SECONDS
    for repeat in range(repeats):
        for taken, width in zip(times, widths, strict=True):
            if repeat and time.perf_counter() > deadline:
                break
            taken += [_time(context, depth, width) for _ in range(in_a_row)]
    return np.array([min(taken) for taken in times])


def _time(context: Context, depth: int, width: int) -> float:
    rows = rows_of_sequence(depth, width, outputs=width)
    began = time.perf_counter()
    context.decode_tokens(rows, np.zeros(width, np.int32))
    context.logits(width)
    elapsed = time.perf_counter() - began
    context.remove(0, depth)
    return elapsed
