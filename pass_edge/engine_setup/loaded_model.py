"""Load a model and its lookahead, as this machine runs them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pass_edge.calibration.calibration import Calibration, gpu_verdict, mtp_works, open_calibrated
from pass_edge.calibration.measurement_cache import load_or_measure, model_key
from pass_edge.decoding.kv_cache import sequences_needed
from pass_edge.drafting.draft_model import check_draft
from pass_edge.drafting.lookahead import Base, Lookahead
from pass_edge.drafting.lookahead_file import read_base, read_lookahead
from pass_edge.models import ModelFile, find_model
from pass_edge.models.sidecars import find_lookahead
from pass_edge.native.chat_template import template_source
from pass_edge.native.default_templates import default_template, warning
from pass_edge.native.devices import can_offload
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LibraryError
from pass_edge.native.file_kind import check_generates, n_mtp_layers
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.model import Model, check_is_gguf
from pass_edge.settings import (
    AUTO,
    DEFAULT_CONTEXT,
    HEAD,
    PLAIN,
    SPARE_CELLS,
    Settings,
    with_fitting_layers,
)


@dataclass(frozen=True)
class Setup:
    """What all steps of a setup share. ``opened`` closes what they open, ``note`` is called with a sentence
    about work that takes time, and ``notes`` are what a user should know about the engine."""

    opened: ExitStack
    note: Callable[[str], None]
    notes: list[str]


@dataclass(frozen=True)
class LoadedModel:
    """A model that is loaded, and what may draft for it.

    ``settings``: with the GPU layers that fit. ``base``: the identity that the model's file states.
    ``embeddings``: those of its tokens, None without a ``lookahead``. ``uses_mtp``: whether its MTP layers
    are loaded. ``draft_path``: the file of the draft model, if one is to draft.
    """

    model: Model
    base: Base
    settings: Settings
    calibration: Calibration
    lookahead: Lookahead | None
    embeddings: TokenEmbeddings | None
    uses_mtp: bool
    draft_path: Path | None

    @property
    def context_size(self) -> int:
        """Tokens that a session holds."""
        wanted, trained = self.settings.context_size, self.model.n_ctx_train
        return min(trained, DEFAULT_CONTEXT) if wanted is None else wanted or trained

    @property
    def n_sequences(self) -> int:
        """Sequences in the context of all sessions."""
        prefix = None if self.lookahead is None else self.lookahead.prefix
        n_prefix = 0 if prefix is None else len(prefix)
        return sequences_needed(n_prefix, self.settings.parallel, chains_only=self.model.is_recurrent)

    @property
    def n_cells(self) -> int:
        """Cells in the context of all sessions."""
        return self.settings.parallel * (self.context_size + SPARE_CELLS)


def load_model(
    found: ModelFile, lookahead: str | Path | Lookahead | None, settings: Settings, setup: Setup
) -> LoadedModel:
    """Load ``found`` with its ``lookahead`` (a file, AUTO: the one that belongs to it, or None). Raises
    subclasses of PassEdgeError."""
    template = None if settings.chat_template is None else template_source(settings.chat_template)
    path = check_is_gguf(found.path)
    draft_path = _draft_path(settings, setup)
    settings = _with_placed_layers(settings, path, setup)
    # reading the file's table needs much memory for a moment, so it comes before the model takes its own
    with GgufFile(path) as file:
        check_generates(file)
        base = _base(file)
        chosen = None if settings.schedule == PLAIN else _lookahead(file, lookahead, base, found, setup)
        embeddings = TokenEmbeddings(file) if chosen is not None else None
        uses_mtp = _uses_mtp(file, settings, setup)
    n_layers = settings.gpu_layers or 0

    def make(repack: bool) -> Model:
        return Model(path, gpu_layers=n_layers, repack=repack, chat_template=template, mtp=uses_mtp)

    model, calibration = open_calibrated(path, settings, make, setup.note)
    setup.opened.enter_context(model)
    if model.vocabulary.has_text and not model.chat_template():
        setup.notes.append(warning(model.vocabulary, default_template(model.vocabulary)))
    if chosen is None and lookahead == AUTO and _can_use_lookahead(model, calibration, settings.schedule):
        setup.notes.append(
            "no lookahead file fits this model; give one with --lookahead, or make one: pass-edge train"
        )
    return LoadedModel(model, base, settings, calibration, chosen, embeddings, uses_mtp, draft_path)


def _draft_path(settings: Settings, setup: Setup) -> Path | None:
    """Return the file of the draft model if one is to draft. It is checked here, before the model is loaded,
    which takes longer."""
    if settings.draft_model is None or settings.schedule != AUTO:
        return None
    return check_draft(find_model(settings.draft_model, note=setup.note).path)


def _can_use_lookahead(model: Model, calibration: Calibration, schedule: str) -> bool:
    """Return whether there is a lookahead file that ``schedule`` would use with this model."""
    if not model.is_recurrent:
        return schedule != PLAIN
    return schedule in (AUTO, HEAD) and calibration.hidden_exact


def _base(file: GgufFile) -> Base:
    """Return the identity of the model in ``file``. It is stored: to hash a vocabulary takes as long as
    loading half a gigabyte of weights."""
    stored = load_or_measure("identity", f"1 {model_key(file.path)}", lambda: asdict(read_base(file)))
    return Base(**stored)


def _with_placed_layers(settings: Settings, path: Path, setup: Setup) -> Settings:
    """Return ``settings`` with the layers that the GPU holds."""
    wanted = settings.gpu_layers
    # a child process tries the GPU first: this one takes GPU memory as soon as it asks how much is free
    if not can_offload() or wanted == 0 or gpu_verdict(setup.note):
        return with_fitting_layers(settings, path)
    if wanted is not None:
        raise LibraryError("llama.cpp fails on the GPU here; --gpu-layers 0 does without it")
    setup.notes.append("llama.cpp fails on the GPU here, so all layers stay on the CPU")
    return replace(settings, gpu_layers=0)


def _lookahead(
    file: GgufFile, wanted: str | Path | Lookahead | None, base: Base, found: ModelFile, setup: Setup
) -> Lookahead | None:
    if wanted == AUTO:
        wanted = find_lookahead(file, base, found.repository)
    if wanted is None:
        return None
    lookahead = wanted if isinstance(wanted, Lookahead) else read_lookahead(wanted)
    setup.notes.extend(lookahead.matches(base))
    return lookahead


def _uses_mtp(file: GgufFile, settings: Settings, setup: Setup) -> bool:
    """Return whether the MTP layers of ``file`` are to draft, and llama.cpp can run them."""
    n_layers = n_mtp_layers(file)
    if not n_layers or not settings.mtp or settings.schedule != AUTO:
        return False
    layers = "layer" if n_layers == 1 else "layers"
    if settings.draft_model:
        setup.notes.append(f"the draft model takes the place of the MTP {layers} of this file")
        return False
    if mtp_works(file.path):
        return True
    setup.notes.append(f"llama.cpp cannot run the MTP {layers} of this file, so no drafts come from it")
    return False
