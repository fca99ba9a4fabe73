"""How many states a recurrent memory should keep for drafts.

With them, rejected drafts are taken back for nothing. But llama.cpp writes all of them in every pass, with
drafts or without: in small models, eight states make a plain pass a third longer. Only as many are kept as
cost it little. Further rejected drafts are rolled back by a copy of the state, which costs plain passes
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pass_edge.calibration.measurement_cache import load_or_measure, run_key
from pass_edge.native.context import Context
from pass_edge.native.model import Model
from pass_edge.settings import Settings, context_settings

from .pass_times import pass_times, read_text

_VERSION = 1
_LITTLE = 0.02
"""The most that kept states may add to a pass over one row, as a share of its time."""
_DEPTH = 32
"""Tokens before the measured passes."""
_TURNS, _TIME_LIMIT = 24, 2.0
"""Passes that are measured with kept states, and as many without; fewer if they take more seconds."""


def cheap_states(
    model: Model, settings: Settings, most: int, note: Callable[[str], None] = lambda _: None
) -> int:
    """Return how many states a recurrent memory should keep, at most ``most``. What they cost is measured if
    it is not stored. ``note``: progress callback. Raises ContextError."""
    key = f"{_VERSION} {most} {run_key(model.path, settings)}"
    share = load_or_measure("states", key, lambda: _share_of_states(model, settings, most, note))
    return most if share <= _LITTLE else int(most * _LITTLE / share)


def _share_of_states(model: Model, settings: Settings, most: int, note: Callable[[str], None]) -> float:
    """Measure what ``most`` kept states add to a pass over one row, as a share of its time."""
    note("measuring what kept states cost on this machine (once)")
    chosen = context_settings(model, settings, cells=2 * _DEPTH)
    with (
        Context(model, replace(chosen, rollback=0)) as without,
        Context(model, replace(chosen, rollback=most)) as keeping,
    ):
        for context in (without, keeping):
            read_text(context, 0, _DEPTH)
        turns: list[list[float]] = []
        deadline = time.perf_counter() + _TIME_LIMIT
        while len(turns) < 2 or (len(turns) < _TURNS and time.perf_counter() < deadline):
            turns.append([float(pass_times(each, _DEPTH, [1], repeats=1)[0]) for each in (without, keeping)])
    without_seconds, seconds = np.min(turns, axis=0)  # other processes only add time
    return float(seconds / without_seconds) - 1
