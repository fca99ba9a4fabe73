"""What an engine is made of, chosen once from its settings, its model and this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pass_edge.calibration.calibration import Calibration, gpu_verdict, mtp_works, open_calibrated
from pass_edge.calibration.measurement_cache import take_problem
from pass_edge.decoding.batcher import Batcher, InputEmbeddings
from pass_edge.decoding.kv_cache import sequences_needed
from pass_edge.decoding.session import Session
from pass_edge.drafting.draft_model import DraftModel, load_draft
from pass_edge.drafting.drafter import Drafter
from pass_edge.drafting.heads import Heads, fastest_heads
from pass_edge.drafting.lookahead import Base, Lookahead
from pass_edge.drafting.lookahead_file import read_base, read_lookahead
from pass_edge.drafting.mtp import MtpLayers
from pass_edge.drafting.schedules import FORMS, FixedSchedule, Schedule, rows_needed
from pass_edge.models import ModelFile, find_model
from pass_edge.models.sidecars import find_lookahead
from pass_edge.native.build import can_run_kernels
from pass_edge.native.chat_template import template_source
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.default_templates import default_template, warning
from pass_edge.native.devices import can_offload, default_threads
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.errors import LibraryError
from pass_edge.native.file_kind import check_generates
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.library import has_kernels, kernels
from pass_edge.native.model import Model, check_is_gguf
from pass_edge.planning.cost_model import StepCosts, step_costs
from pass_edge.planning.draft_statistics import DraftStatistics
from pass_edge.planning.expected_speed import expected_speed
from pass_edge.planning.kept_states import cheap_states
from pass_edge.planning.planner import GPU_TREE_SIZES, Planner, may_look_ahead

from .settings import (
    AUTO,
    DEFAULT_CONTEXT,
    FUSED,
    HEAD,
    MAX_RECURRENT_DRAFTS,
    PLAIN,
    SPARE_CELLS,
    Settings,
    context_settings,
    on_gpu,
    with_fitting_layers,
)

Note = Callable[[str], None]
"""Called with a sentence about work that takes time."""

_MAX_HEAD_CHAIN = 8
"""Tokens that heads draft in a row, one call each."""
_HEAD_ALTERNATIVES = 2
"""Further tokens that heads draft at each depth; few of them pay."""
_STATES_PART = 0.5
"""The most memory that the states of a recurrent memory may take, as a part of the model's size."""
_MAX_MODEL_CHAIN = 16
"""Tokens that a draft model drafts in a row, one pass each."""
_VERY_GOOD = 0.9
"""Few draft models are right more often."""
_MAX_LOOKAHEAD_GROUP = 2
"""Lookahead tokens at a node: each takes a row at every node."""


@dataclass
class EngineParts:
    """The parts of an engine, in the order in which they are chosen. ``opened`` closes those that hold
    memory; ``notes`` are what a user should know. Other attributes are as the Engine's."""

    settings: Settings
    notes: list[str] = field(default_factory=list)
    opened: ExitStack = field(default_factory=ExitStack)
    base: Base = field(init=False)
    lookahead: Lookahead | None = field(init=False, default=None)
    calibration: Calibration = field(init=False)
    model: Model = field(init=False)
    context_size: int = field(init=False)
    parallel: int = field(init=False)
    schedule: str = field(init=False)
    costs: StepCosts | None = field(init=False, default=None)
    draft_model: DraftModel | None = field(init=False, default=None)
    sessions: tuple[Session, ...] = field(init=False)
    _uses_mtp: bool = field(init=False, default=False)
    _embeddings: TokenEmbeddings | None = field(init=False, default=None)
    _max_drafts: int = field(init=False)
    _rollback: int | None = field(init=False)
    """The number of states that a recurrent memory keeps for drafts; None if it cannot go back at all."""

    @classmethod
    def assemble(
        cls, model: ModelFile, lookahead: str | Path | Lookahead | None, settings: Settings, note: Note
    ) -> EngineParts:
        """Load ``model`` and what belongs to it. Raises subclasses of PassEdgeError."""
        parts = cls(settings)
        template = None if settings.chat_template is None else template_source(settings.chat_template)
        path = check_is_gguf(model.path)
        parts._place_layers(path, note)
        # reading the file's table needs much memory for a moment, so it comes before the model takes its own
        with GgufFile(path) as file:
            check_generates(file)
            parts.base = read_base(file)
            parts._choose_lookahead(file, lookahead, model.repository)
            parts._choose_mtp(file)
        gpu_layers, mtp = parts.settings.gpu_layers or 0, parts._uses_mtp
        make = partial(Model, path, gpu_layers=gpu_layers, chat_template=template, mtp=mtp)
        with parts.opened as opened:
            parts.model, parts.calibration = open_calibrated(
                path, parts.settings, lambda repack: make(repack=repack), note
            )
            opened.enter_context(parts.model)
            parts._warn_of_template()
            parts._choose_context()
            parts.parallel = settings.parallel
            parts._choose_schedule()
            parts._choose_kept_states(note)
            parts._open_sessions(opened, note)
            if problem := take_problem():
                parts.notes.append(problem)
            parts.opened = opened.pop_all()
        return parts

    # -- choices ----------------------------------------------------------------------------------

    def _place_layers(self, path: Path, note: Note) -> None:
        wanted = self.settings.gpu_layers
        # a child process tries the GPU first: this one takes GPU memory as soon as it asks how much is free
        if not can_offload() or wanted == 0 or gpu_verdict(note):
            self.settings = with_fitting_layers(self.settings, path)
            return
        if wanted is not None:
            raise LibraryError("llama.cpp fails on the GPU here; --gpu-layers 0 does without it")
        self.notes.append("llama.cpp fails on the GPU here, so all layers stay on the CPU")
        self.settings = replace(self.settings, gpu_layers=0)

    def _choose_lookahead(
        self, file: GgufFile, wanted: str | Path | Lookahead | None, repository: str
    ) -> None:
        if wanted is None or self.settings.schedule == PLAIN:
            return
        if wanted == AUTO:
            wanted = find_lookahead(file, self.base, repository)
            if wanted is None:
                self.notes.append(
                    "no lookahead file fits this model, so drafts come from the conversation alone; "
                    "give one with --lookahead, or make one: pass-edge train"
                )
                return
        self.lookahead = wanted if isinstance(wanted, Lookahead) else read_lookahead(wanted)
        self.notes += self.lookahead.matches(self.base)
        self._embeddings = TokenEmbeddings(file)

    def _choose_mtp(self, file: GgufFile) -> None:
        settings = self.settings
        if not settings.mtp or settings.schedule != AUTO or settings.draft_model:
            return
        if n_layers := file.number(f"{self.base.architecture}.nextn_predict_layers"):
            self._uses_mtp = mtp_works(file.path)
            if not self._uses_mtp:
                layers = "layer" if n_layers == 1 else "layers"
                self.notes.append(
                    f"llama.cpp cannot run the MTP {layers} of this file, so no drafts come from it"
                )

    def _warn_of_template(self) -> None:
        vocabulary = self.model.vocabulary
        if vocabulary.has_text and not self.model.chat_template():
            self.notes.append(warning(vocabulary, default_template(vocabulary)))

    def _choose_context(self) -> None:
        wanted, trained = self.settings.context_size, self.model.n_ctx_train
        self.context_size = min(trained, DEFAULT_CONTEXT) if wanted is None else wanted or trained

    def _choose_schedule(self) -> None:
        """Choose the schedule, and how many tokens it drafts ahead at most."""
        wanted = self.settings.schedule
        max_drafts = 0 if wanted == PLAIN else self._most_drafts(wanted)
        reason = self._why_plain(wanted, max_drafts)
        self.schedule, self._max_drafts = (PLAIN, 0) if reason else (wanted, max_drafts)
        if reason:
            self.notes.append(f"{reason}, so it decodes plainly")
        elif wanted != PLAIN:
            self._warn_of_kernels()

    def _most_drafts(self, schedule: str) -> int:
        """Return how many tokens ``schedule`` may draft ahead: 0 if no pass has room for one."""
        max_rows, wanted = self.calibration.widest_step, self.settings.draft_max
        if self.model.is_recurrent:
            wanted = wanted or (MAX_RECURRENT_DRAFTS if schedule == AUTO else 1)
            max_rows = min(max_rows, self.calibration.prompt_batch - 1)  # llama.cpp aborts on more states
        if schedule == AUTO:
            return min(wanted or max_rows, max_rows - 1)
        depth = wanted or 1
        if schedule != HEAD and self.lookahead is not None:
            depth = min(depth, len(self.lookahead))
        while depth and rows_needed(FORMS[schedule], depth) > max_rows:
            depth -= 1
        return depth

    def _choose_kept_states(self, note: Note) -> None:
        """Choose how many states a recurrent memory keeps for drafts, so that they stay small beside the
        model, and with the schedule auto, cheap beside a pass."""
        calibration, self._rollback = self.calibration, 0 if self.calibration.rolls_back else None
        if not (self._rollback == 0 and calibration.keeps_states and self._max_drafts):
            return
        all_states = self._n_sequences * calibration.state_bytes
        fitting = max(0, _STATES_PART * self.model.size / all_states - 1)
        self._rollback = int(min(fitting, self._max_drafts))
        if self.schedule == AUTO and self._rollback:
            self._rollback = cheap_states(self.model, self.settings, self._rollback, note)

    @property
    def recurrent_bytes(self) -> int:
        """The size of the recurrent memory of all conversations; 0 without one."""
        states = (1 + (self._rollback or 0)) * self._n_sequences
        return states * self.calibration.state_bytes

    def _why_plain(self, schedule: str, max_drafts: int) -> str:
        """Return why this model cannot draft as ``schedule`` does, "" if it can."""
        if schedule == PLAIN:
            return ""
        if not self.calibration.rolls_back:
            return f"the memory of a {self.model.architecture} model was not rolled back right"
        if schedule != AUTO and (missing := self._missing_for(schedule)):
            return missing
        if not max_drafts:
            max_rows = self.calibration.widest_step
            return f"only {max_rows} tokens may share a pass here without changing the logits"
        return ""

    def _missing_for(self, schedule: str) -> str:
        """Return what the fixed ``schedule`` lacks, "" if nothing."""
        if self.lookahead is None:
            return f"{schedule} needs a lookahead file"
        if schedule == HEAD:
            if not self.calibration.hidden_exact:
                return f"llama.cpp's {self.model.architecture} graph has no logits beside hidden states"
            return "" if self.lookahead.hidden_head else "this lookahead has no head for hidden states"
        return self._why_no_lookahead_tokens(self.lookahead)

    def _why_no_lookahead_tokens(self, lookahead: Lookahead) -> str:
        if self.model.is_recurrent:
            return f"lookahead tokens cannot share the state of a {self.model.architecture} model"
        if not len(lookahead):
            return "this lookahead has no lookahead embeddings"
        if not self.calibration.embeddings_exact:
            return f"llama.cpp's {self.model.architecture} graph does not take lookahead embeddings"
        return ""

    def _warn_of_kernels(self) -> None:
        if self.calibration.width == 1:
            self.notes.append(
                "batch sizes change the logits here, so the text may leave plain decoding's at a near tie"
            )
        if "Q4_1" in self.model.description and not kernels():
            advice = (
                "build and install ours: pass-edge setup"
                if can_run_kernels() and not has_kernels()
                else "drafting gains more in Q4_0: pass-edge quantize MODEL.gguf OUTPUT.gguf Q4_0"
            )
            self.notes.append(f"llama.cpp's kernels are slow for several tokens in Q4_1; {advice}")

    # -- sessions ---------------------------------------------------------------------------------

    def _open_sessions(self, opened: ExitStack, note: Note) -> None:
        context = opened.enter_context(Context(self.model, self._context_settings()))
        inputs = None
        if self.lookahead is not None and self._embeddings is not None:
            inputs = InputEmbeddings(self._embeddings, self.lookahead.embeddings, self.lookahead.prefix)
        batcher = Batcher(context, inputs, parallel=self.parallel, max_rows=self.calibration.widest_step)
        make_schedule = self._schedules(batcher, opened, note)
        self.sessions = tuple(
            Session(batcher, make_schedule(), number, n_vocab=self.base.n_vocab, rule=self.settings.verify)
            for number in range(self.parallel)
        )

    @property
    def _n_sequences(self) -> int:
        prefix = None if self.lookahead is None else self.lookahead.prefix
        n_prefix = 0 if prefix is None else len(prefix)
        return sequences_needed(n_prefix, self.parallel, chains_only=self.model.is_recurrent)

    def _context_settings(self) -> ContextSettings:
        return replace(
            context_settings(self.model, self.settings, self.parallel * (self.context_size + SPARE_CELLS)),
            sequences=self._n_sequences,
            rollback=self._rollback,
            batch_size=self.calibration.prompt_batch,
        )

    def _schedules(self, batcher: Batcher, opened: ExitStack, note: Note) -> Callable[[], Schedule]:
        """Return what makes the schedule of a session. All sessions share heads, costs and statistics."""
        if self.schedule == AUTO:
            return self._planners(batcher, opened, note)
        if self.settings.draft_model and self.schedule != PLAIN:
            self.notes.append(f"the schedule {self.schedule} asks no draft model; auto does")
        heads = None
        if self.schedule in (HEAD, FUSED):  # two-pass is the paper's: lookahead tokens alone
            heads = self._heads(opened, correct_lookahead=self.schedule == FUSED)
        drafter = Drafter(self._max_drafts, heads, self.settings.draft_p_min)
        return lambda: FixedSchedule(FORMS[self.schedule], drafter)

    def _planners(self, batcher: Batcher, opened: ExitStack, note: Note) -> Callable[[], Schedule]:
        draft = self._load_draft(opened, note)
        has_mtp = self._uses_mtp and self.calibration.mtp_exact
        if has_mtp:
            batcher.context.keep_mtp_states()
        max_rows = self._max_drafts + 1 if self.parallel == 1 else self.calibration.widest_step
        costs = self.costs = step_costs(batcher.context, self.settings, max_rows, note)
        lookahead, n_lookahead = self.lookahead, 0
        if lookahead is not None and not self._why_no_lookahead_tokens(lookahead):
            n_lookahead = min(_MAX_LOOKAHEAD_GROUP, len(lookahead))
        has_hidden_head = bool(lookahead and lookahead.hidden_head)
        may_pay = n_lookahead > 0 and may_look_ahead(costs, has_hidden_head=has_hidden_head)
        heads = self._heads(opened, correct_lookahead=may_pay)
        n_alternatives = 0 if batcher.limits.chains_only else _HEAD_ALTERNATIVES
        drafter = Drafter(_MAX_HEAD_CHAIN, heads, n_alternatives=n_alternatives)
        statistics = DraftStatistics(lookahead_may_pay=may_pay)
        make_chains = None
        self.draft_model = self._open_draft_model(draft, opened, costs, has_mtp=has_mtp)
        if self.draft_model:
            make_chains = partial(self.draft_model.new_conversation, _MAX_MODEL_CHAIN, n_alternatives)
        return lambda: Planner(
            costs,
            drafter,
            n_lookahead,
            statistics=statistics,
            use_ngrams=self.settings.ngrams,
            max_drafted=self._max_drafts,
            tree_sizes=GPU_TREE_SIZES if on_gpu(self.settings) else (),
            limits=batcher.limits,
            draft_model=make_chains() if make_chains else None,
        )

    def _load_draft(self, opened: ExitStack, note: Note) -> Model | None:
        if self.settings.draft_model is None:
            return None
        path = find_model(self.settings.draft_model, note=note).path
        return opened.enter_context(load_draft(path, self.model, self.base.n_vocab, self.settings, note))

    def _open_draft_model(
        self, draft: Model | None, opened: ExitStack, costs: StepCosts, *, has_mtp: bool
    ) -> DraftModel | None:
        """Open the draft model, or else the model's MTP layers; None if there are neither."""
        if not (draft or has_mtp):
            return None
        cells, threads = self.parallel * (self.context_size + SPARE_CELLS), costs.threads
        kind, name = (DraftModel, "the draft model") if draft else (MtpLayers, "the MTP layers")
        opened_model = kind(
            draft or self.model, self.base.n_vocab, self.settings, self.parallel, cells, threads
        )
        opened.enter_context(closing(opened_model))
        draft_seconds, seconds = opened_model.step_seconds, float(costs.at(0)[0])
        if expected_speed(costs, draft_seconds, [_VERY_GOOD]) <= 1:
            self.notes.append(
                f"a pass of {name} takes {1e3 * draft_seconds:.1f} ms, and one of the model "
                f"{1e3 * seconds:.1f} ms, so drafts would not pay even if {_VERY_GOOD:.0%} of them were right"
            )
        return opened_model

    def _heads(self, opened: ExitStack, *, correct_lookahead: bool) -> Heads | None:
        lookahead, embeddings = self.lookahead, self._embeddings
        if lookahead is None or not embeddings:
            return None
        if not (lookahead.hidden_head or (correct_lookahead and lookahead.head)):
            return None
        if not self.calibration.hidden_exact:
            return None
        # as many threads as passes have: further ones would spin on after a head and take the cores of a pass
        chosen = self.costs.threads if self.costs else None
        threads = chosen[0] if chosen else self.settings.threads or default_threads()
        make = partial(Heads, lookahead, embeddings, threads=threads, correct_lookahead=correct_lookahead)
        return opened.enter_context(closing(fastest_heads(make) if on_gpu(self.settings) else make()))
