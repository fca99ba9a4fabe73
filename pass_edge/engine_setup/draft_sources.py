"""What sessions draft with: heads, a draft model or MTP layers, and the schedule that uses them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from pass_edge.decoding.batcher import Batcher
from pass_edge.drafting.draft_model import DraftModel, load_draft
from pass_edge.drafting.drafter import Drafter
from pass_edge.drafting.heads import Heads, fastest_heads
from pass_edge.drafting.mtp import MtpLayers
from pass_edge.drafting.schedules import FORMS, FixedSchedule, Schedule
from pass_edge.native.devices import default_threads
from pass_edge.native.model import Model
from pass_edge.planning.cost_model import StepCosts, step_costs
from pass_edge.planning.draft_statistics import DraftStatistics
from pass_edge.planning.expected_speed import expected_speed
from pass_edge.planning.planner import GPU_TREE_SIZES, Planner, may_look_ahead
from pass_edge.settings import AUTO, FUSED, HEAD, on_gpu

from .loaded_model import LoadedModel, Setup
from .schedule_choice import ScheduleChoice, why_no_lookahead_tokens

_MAX_HEAD_CHAIN = 8
"""Tokens that heads draft in a row, one call each."""
_HEAD_ALTERNATIVES = 2
"""Further tokens that heads draft at each depth; few of them pay."""
_MAX_MODEL_CHAIN = 16
"""Tokens that a draft model drafts in a row, one pass each."""
_VERY_GOOD = 0.9
"""Few draft models are right more often."""
_MAX_LOOKAHEAD_GROUP = 2
"""Lookahead tokens at a node: each takes a row at every node."""


@dataclass(frozen=True)
class DraftSources:
    """What all sessions draft with. ``make_schedule`` makes the schedule of one of them. ``costs`` of passes
    and the ``draft_model`` are those of the schedule "auto"."""

    make_schedule: Callable[[], Schedule]
    costs: StepCosts | None = None
    draft_model: DraftModel | None = None


def open_draft_sources(
    loaded: LoadedModel, choice: ScheduleChoice, batcher: Batcher, setup: Setup
) -> DraftSources:
    """Open what the chosen schedule drafts with."""
    if choice.schedule == AUTO:
        return _planned_sources(loaded, choice, batcher, setup)
    if loaded.settings.draft_model and loaded.settings.schedule != AUTO:
        setup.notes.append(f"the schedule {loaded.settings.schedule} asks no draft model; auto does")
    heads = None
    if choice.schedule in (HEAD, FUSED):  # two-pass is the paper's: lookahead tokens alone
        heads = _open_heads(loaded, None, setup, correct_lookahead=choice.schedule == FUSED)
    drafter = Drafter(choice.max_drafts, heads, loaded.settings.draft_p_min)
    return DraftSources(lambda: FixedSchedule(FORMS[choice.schedule], drafter))


def _planned_sources(
    loaded: LoadedModel, choice: ScheduleChoice, batcher: Batcher, setup: Setup
) -> DraftSources:
    """Open the sources of planners, which share heads, costs, statistics and the draft model."""
    settings, lookahead = loaded.settings, loaded.lookahead
    draft = _load_draft(loaded, setup)
    has_mtp = loaded.uses_mtp and loaded.calibration.mtp_exact
    if has_mtp:
        batcher.context.keep_mtp_states()
    max_rows = choice.max_drafts + 1 if settings.parallel == 1 else loaded.calibration.widest_step
    costs = step_costs(batcher.context, settings, max_rows, setup.note, loaded.calibration.seconds)
    n_lookahead = _lookahead_group(loaded)
    has_hidden_head = bool(lookahead and lookahead.hidden_head)
    may_pay = n_lookahead > 0 and may_look_ahead(costs, has_hidden_head=has_hidden_head)
    heads = _open_heads(loaded, costs, setup, correct_lookahead=may_pay)
    n_alternatives = 0 if batcher.limits.chains_only else _HEAD_ALTERNATIVES
    drafter = Drafter(_MAX_HEAD_CHAIN, heads, n_alternatives=n_alternatives)
    statistics = DraftStatistics(lookahead_may_pay=may_pay)
    draft_model = _open_draft_model(loaded, draft, costs, setup, has_mtp=has_mtp)
    make_chains = None
    if draft_model:
        make_chains = partial(draft_model.new_conversation, _MAX_MODEL_CHAIN, n_alternatives)

    def make_planner() -> Planner:
        return Planner(
            costs,
            drafter,
            n_lookahead,
            statistics=statistics,
            use_ngrams=settings.ngrams,
            max_drafted=choice.max_drafts,
            tree_sizes=GPU_TREE_SIZES if on_gpu(settings) else (),
            limits=batcher.limits,
            draft_model=make_chains() if make_chains else None,
        )

    return DraftSources(make_planner, costs, draft_model)


def _lookahead_group(loaded: LoadedModel) -> int:
    """Return how many lookahead tokens a node may have; 0 if this model takes none."""
    if loaded.lookahead is None or why_no_lookahead_tokens(loaded):
        return 0
    return min(_MAX_LOOKAHEAD_GROUP, len(loaded.lookahead))


def _load_draft(loaded: LoadedModel, setup: Setup) -> Model | None:
    if loaded.draft_path is None:
        return None
    return setup.opened.enter_context(
        load_draft(loaded.draft_path, loaded.model, loaded.base.n_vocab, loaded.settings, setup.note)
    )


def _open_draft_model(
    loaded: LoadedModel,
    draft: Model | None,
    costs: StepCosts,
    setup: Setup,
    *,
    has_mtp: bool,
) -> DraftModel | None:
    """Open the draft model, or else the model's MTP layers; None if there are neither."""
    if not (draft or has_mtp):
        return None
    settings = loaded.settings
    kind, name = (DraftModel, "the draft model") if draft else (MtpLayers, "the MTP layers")
    model = kind(
        draft or loaded.model,
        loaded.base.n_vocab,
        settings,
        settings.parallel,
        loaded.n_cells,
        costs.threads,
    )
    setup.opened.enter_context(closing(model))
    draft_seconds, seconds = model.step_seconds, float(costs.at(0)[0])
    if expected_speed(costs, draft_seconds, [_VERY_GOOD]) <= 1:
        setup.notes.append(
            f"a pass of {name} takes {1e3 * draft_seconds:.1f} ms, and one of the model "
            f"{1e3 * seconds:.1f} ms, so drafts would not pay even if {_VERY_GOOD:.0%} of them were right"
        )
    return model


def _open_heads(
    loaded: LoadedModel, costs: StepCosts | None, setup: Setup, *, correct_lookahead: bool
) -> Heads | None:
    lookahead, embeddings = loaded.lookahead, loaded.embeddings
    if lookahead is None or not embeddings:
        return None
    if not (lookahead.hidden_head or (correct_lookahead and lookahead.head)):
        return None
    if not loaded.calibration.hidden_exact:
        return None
    # as many threads as passes have: further ones would spin on after a head and take the cores of a pass
    chosen = costs.threads if costs else None
    threads = chosen[0] if chosen else loaded.settings.threads or default_threads()
    make = partial(Heads, lookahead, embeddings, threads=threads, correct_lookahead=correct_lookahead)
    return setup.opened.enter_context(closing(fastest_heads(make) if on_gpu(loaded.settings) else make()))
