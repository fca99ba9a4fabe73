"""llama.cpp's list of samplers: those that it leaves out are off."""

from __future__ import annotations

from collections.abc import Sequence

from pass_edge.native.errors import SettingsError

_OFF: dict[str, dict[str, float]] = {
    "penalties": {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
    "top_k": {"top_k": 0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "temperature": {"temperature": 1.0},
}
"""The parameters of each sampler when it is off, in the order in which they are applied."""
SAMPLERS = tuple(_OFF)
_NOT_THERE = ("dry", "top_n_sigma", "typ_p", "xtc", "adaptive_p", "infill")
"""Off here anyway, except "infill", which chooses between ends that are alike, for editors."""
_LETTERS = dict(zip("ekpmtdsyxai", (*SAMPLERS, *_NOT_THERE), strict=True))


def active_samplers(wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the samplers that are on, in order. ``wanted``: names, or llama.cpp's letter of each in one
    text; None is all. Raises SettingsError for names that are not known, and for another order."""
    if wanted is None:
        return SAMPLERS
    names = [_LETTERS.get(each, each) for each in wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in names if name not in (*SAMPLERS, *_NOT_THERE)]
    if unknown:
        raise SettingsError(
            f"unknown sampler {unknown[0]!r:.60}; known are {', '.join((*SAMPLERS, *_NOT_THERE))}"
        )
    active = tuple(name for name in names if name in SAMPLERS)
    if active != tuple(name for name in SAMPLERS if name in active):
        raise SettingsError(
            f"samplers work in the order {', '.join(SAMPLERS)} only; give them in it, or none"
        )
    return active


def parameters_of_idle(wanted: Sequence[str] | None) -> dict[str, float]:
    """Return the parameters of the samplers that ``wanted`` leaves out. Raises as ``active_samplers``."""
    active = active_samplers(wanted)
    return {key: value for name, off in _OFF.items() if name not in active for key, value in off.items()}
