"""How an engine runs: what a user sets, and the context that follows from it for a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pass_edge.native.context import ContextSettings
from pass_edge.native.devices import can_offload
from pass_edge.native.errors import SettingsError
from pass_edge.native.library import GGML_TYPES
from pass_edge.native.model import Model
from pass_edge.native.offload import fitting_layers

AUTO, PLAIN, HEAD, TWO_PASS, FUSED = "auto", "plain", "head", "two-pass", "fused"
SCHEDULES = (AUTO, PLAIN, HEAD, TWO_PASS, FUSED)
REJECTION = "rejection"
VERIFICATION_RULES = ("sampling", REJECTION)
MAX_ROWS = 64
"""Most rows that one pass may decode."""
MAX_PARALLEL = 16
"""Most conversations: each needs a few sequences."""
SPARE_CELLS = 256
"""KV cells of each conversation beyond the context size: for the drafts of a step, and for the gaps that
rejected drafts leave."""
DEFAULT_CONTEXT = 4096
PROMPT_BATCH = 512
"""Tokens of a prompt that are read at once, if that changes no bits."""
_FLASH_ATTENTION = {"on": True, "off": False, AUTO: None}
_Q8_0_BLOCK = 32
_MOST_THREADS = 512  # `ggml.h`, GGML_MAX_N_THREADS: beyond it llama.cpp aborts


@dataclass(frozen=True)
class Settings:
    """How an engine runs. Raises SettingsError on values that cannot be.

    ``schedule``: "auto" (each pass decodes what is worth most at what passes cost here), "plain", or one that
    drafts at every step: "head", "two-pass", "fused". ``verify``: "sampling" (same text with and without
    drafting) or "rejection" (the paper's rule: the same distribution). ``draft_max``: tokens drafted ahead at
    most; None is as many as pay, or one where every step drafts; ``ngrams``: whether auto drafts from the
    conversation too; ``draft_p_min``: the least chance that a draft must give itself to be verified, 0 to 1
    (auto knows better, and does not ask). ``context_size``: tokens a conversation may hold (0: the model's
    own, at most 4,096). ``parallel``: conversations side by side, at most 16, each with as much of the KV
    cache: they share forward passes. ``cache_type_k``/``_v``: ggml types of the KV cache; None picks the
    fastest pair that keeps batch sizes from changing the logits; ``flash_attn``: "on", "off", or "auto",
    where the device can. ``gpu_layers``: None is as many as fit the device's free memory, -1 all.
    """

    schedule: str = "auto"
    verify: str = "sampling"
    draft_max: int | None = None
    draft_p_min: float = 0.0
    ngrams: bool = True
    context_size: int = 0
    parallel: int = 1
    threads: int | None = None
    gpu_layers: int | None = None
    flash_attn: str = AUTO
    cache_type_k: str | None = None
    cache_type_v: str | None = None

    def __post_init__(self) -> None:
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("verification rule", self.verify, VERIFICATION_RULES)
        _one_of("flash-attn", self.flash_attn, _FLASH_ATTENTION)
        for cache_type in filter(None, (self.cache_type_k, self.cache_type_v)):
            _one_of("KV cache type", cache_type.lower(), GGML_TYPES)
        least_values = {"draft_max": 1, "context_size": 0, "parallel": 1, "threads": 1, "gpu_layers": -1}
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name.replace('_', '-')} is {value}; it must be {least} or more")
        if not 0 <= self.draft_p_min <= 1:
            raise SettingsError(f"draft-p-min is {self.draft_p_min}; it must be from 0 to 1")
        if self.parallel > MAX_PARALLEL:
            raise SettingsError(f"parallel is {self.parallel}; it must be {MAX_PARALLEL} or less")
        if (self.threads or 0) > _MOST_THREADS:
            raise SettingsError(f"threads is {self.threads}; llama.cpp takes at most {_MOST_THREADS}")


def _one_of(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise SettingsError(f"unknown {what} {name!r}; known are {', '.join(known)}")


def with_fitting_layers(settings: Settings, path: Path) -> Settings:
    """``settings`` with as many GPU layers as fit, where they leave that open. Raises ModelError."""
    if settings.gpu_layers is not None:
        return settings
    cells = settings.parallel * (settings.context_size or DEFAULT_CONTEXT)
    return replace(settings, gpu_layers=fitting_layers(path, cells))


def on_gpu(settings: Settings) -> bool:
    """Whether layers of a model go to a GPU, once it is settled how many."""
    return can_offload() and bool(settings.gpu_layers)


def context_settings(model: Model, settings: Settings, cells: int) -> ContextSettings:
    """The context of ``cells`` KV cells that ``settings`` ask for with ``model``.

    On the CPU, ggml decodes one token by another attention kernel than several where K and V have
    one type (a split over the cache), and rounds differently; unlike types always take the same.
    Q8_0 beside F16 is as fast for one token as F16 beside F16; heads that its blocks do not divide
    get BF16. GPUs have no such pair, and like F16 best.
    """
    offloaded = on_gpu(settings)
    flash_attention = _FLASH_ATTENTION[settings.flash_attn]
    fits_q8_0 = model.head_size("key") % _Q8_0_BLOCK == 0
    return ContextSettings(
        cells=cells,
        threads=settings.threads,
        cache_type_k=settings.cache_type_k or ("f16" if offloaded else "q8_0" if fits_q8_0 else "bf16"),
        cache_type_v=settings.cache_type_v or "f16",
        flash_attention=True if flash_attention is None and not offloaded else flash_attention,
    )
