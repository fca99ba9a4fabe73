"""How an engine runs: the user's settings, the limits, and the context that they mean for a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pass_edge.native.context import ContextSettings
from pass_edge.native.devices import can_offload
from pass_edge.native.errors import SettingsError
from pass_edge.native.gguf_file import trained_context
from pass_edge.native.gpu_offload import fitting_layers
from pass_edge.native.library import GGML_TYPES
from pass_edge.native.memory_need import bytes_needed
from pass_edge.native.model import Model

AUTO, PLAIN, HEAD, TWO_PASS, FUSED = "auto", "plain", "head", "two-pass", "fused"
SCHEDULES = (AUTO, PLAIN, HEAD, TWO_PASS, FUSED)
REJECTION = "rejection"
VERIFICATION_RULES = ("sampling", REJECTION)
MAX_ROWS = 64
"""Most rows of a step: drafts and lookahead tokens of all conversations that share it."""
MAX_PARALLEL = 16
"""Most conversations: each needs a few sequences."""
SPARE_CELLS = 256
"""KV cells of each conversation beyond the context size: for the drafts of a step, and for the gaps that
rejected drafts leave."""
DEFAULT_CONTEXT = 4096
MAX_RECURRENT_DRAFTS = 8
"""Most tokens drafted for a recurrent memory, unless the settings say how many: each may take a further state
of each conversation."""
PROMPT_BATCH = 512
"""Tokens of a prompt that are decoded at once, if that changes no bits."""
_FLASH_ATTENTION = {"on": True, "off": False, AUTO: None}
_Q8_0_BLOCK = 32
_MAX_THREADS = 512  # `ggml.h`, GGML_MAX_N_THREADS: beyond it llama.cpp aborts


@dataclass(frozen=True)
class Settings:
    """How an engine runs. Raises SettingsError on values that are not allowed.

    ``schedule``: "auto" (each pass decodes the tree that gains most at what passes cost here), "plain" (no
    drafts), or one that drafts at every step: "head", "two-pass", "fused". ``verify``: "sampling" (the same
    text with and without drafts) or "rejection" (the paper's rule: the same distribution). ``draft_max``:
    most tokens to draft ahead; None: as many as pay with auto (with a recurrent memory, at most 8), else one.
    ``ngrams``: whether auto also drafts from the conversation. ``draft_model``: the file of a small model
    with the same tokenizer, from which auto drafts too. ``mtp``: whether auto drafts from the model's own MTP
    layers, if it has any and there is no draft model. ``draft_p_min``: lowest confidence, 0 to 1, of a
    draft that is verified (auto computes its own and ignores this). ``context_size``: tokens of a
    conversation; 0: as many as the model was trained with; None: the same, but at most 4,096. ``parallel``:
    conversations side by side, at most 16, each with as much of the KV cache; they share forward passes.
    ``cache_type_k``/``_v``: ggml types of the KV cache; None: the fastest pair for which batch sizes do not
    change the logits.
    ``flash_attn``: "on", "off", or "auto" (if the device can). ``gpu_layers``: None: as many as fit into the
    device's free memory; -1: all. ``think``: whether a model that can think does so in chats; None: as its
    template has it. ``thinking_budget``: tokens of thinking after which the answer begins; None: no limit.
    ``chat_template``: the chat template in Jinja, or llama.cpp's name of one, such as "chatml"; None: the
    model's own.
    """

    schedule: str = "auto"
    verify: str = "sampling"
    draft_max: int | None = None
    draft_p_min: float = 0.0
    ngrams: bool = True
    draft_model: str | Path | None = None
    mtp: bool = True
    context_size: int | None = None
    parallel: int = 1
    threads: int | None = None
    gpu_layers: int | None = None
    flash_attn: str = AUTO
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    think: bool | None = None
    thinking_budget: int | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("verification rule", self.verify, VERIFICATION_RULES)
        _one_of("flash-attn", self.flash_attn, _FLASH_ATTENTION)
        for cache_type in filter(None, (self.cache_type_k, self.cache_type_v)):
            _one_of("KV cache type", cache_type.lower(), GGML_TYPES)
        minima = {"draft_max": 1, "context_size": 0, "parallel": 1, "threads": 1, "gpu_layers": -1}
        minima["thinking_budget"] = 0
        for name, minimum in minima.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise SettingsError(f"{name.replace('_', '-')} is {value}; it must be {minimum} or more")
        if not 0 <= self.draft_p_min <= 1:
            raise SettingsError(f"draft-p-min is {self.draft_p_min}; it must be from 0 to 1")
        if self.parallel > MAX_PARALLEL:
            raise SettingsError(f"parallel is {self.parallel}; it must be {MAX_PARALLEL} or less")
        if (self.threads or 0) > _MAX_THREADS:
            raise SettingsError(f"threads is {self.threads}; llama.cpp takes at most {_MAX_THREADS}")


def _one_of(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise SettingsError(f"unknown {what} {name!r}; known are {', '.join(known)}")


def with_fitting_layers(settings: Settings, path: Path) -> Settings:
    """Return ``settings`` with as many GPU layers as fit, if they do not say how many. Raises ModelError."""
    if settings.gpu_layers is not None:
        return settings
    cells = settings.parallel * _context_size(settings, path)
    return replace(settings, gpu_layers=fitting_layers(path, cells))


def memory_needed(settings: Settings, path: Path) -> int:
    """Estimate the bytes of memory that the model in ``path`` takes with ``settings``. Raises ModelError."""
    return bytes_needed(path, settings.parallel * (_context_size(settings, path) + SPARE_CELLS))


def _context_size(settings: Settings, path: Path) -> int:
    size = settings.context_size
    return DEFAULT_CONTEXT if size is None else size or trained_context(path)


def on_gpu(settings: Settings) -> bool:
    """Return whether layers of a model go to a GPU, once their number is known."""
    return can_offload() and bool(settings.gpu_layers)


def context_settings(model: Model, settings: Settings, cells: int) -> ContextSettings:
    """Return the settings of a context with ``cells`` KV cells; of a recurrent memory, for one sequence.

    On the CPU, if K and V have the same type, ggml decodes one token with another attention kernel than
    several tokens (split over the cache) and rounds differently. With different types it always uses the same
    kernel. K in Q8_0 with V in F16 is as fast for one token as F16 for both; heads whose size Q8_0's blocks
    do not divide get K in BF16. GPUs have no such pair, and are fastest with F16.
    """
    offloaded = on_gpu(settings)
    flash_attention = _FLASH_ATTENTION[settings.flash_attn]
    fits_q8_0 = model.head_size("key") % _Q8_0_BLOCK == 0
    return ContextSettings(
        cells=cells,
        sequences=1 if model.is_recurrent else ContextSettings.sequences,
        threads=settings.threads,
        cache_type_k=settings.cache_type_k or ("f16" if offloaded else "q8_0" if fits_q8_0 else "bf16"),
        cache_type_v=settings.cache_type_v or "f16",
        flash_attention=True if flash_attention is None and not offloaded else flash_attention,
    )
