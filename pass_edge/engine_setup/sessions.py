"""The context of all sessions, the batcher that decodes in it, and the sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pass_edge.decoding.batcher import Batcher, InputEmbeddings
from pass_edge.decoding.session import Session
from pass_edge.drafting.schedules import Schedule
from pass_edge.native.context import Context, ContextSettings
from pass_edge.settings import context_settings

from .loaded_model import LoadedModel, Setup
from .schedule_choice import ScheduleChoice


def open_batcher(loaded: LoadedModel, choice: ScheduleChoice, setup: Setup) -> Batcher:
    """Return the batcher of a new context."""
    context = setup.opened.enter_context(Context(loaded.model, _context_settings(loaded, choice)))
    inputs = None
    if loaded.lookahead is not None and loaded.embeddings is not None:
        inputs = InputEmbeddings(loaded.embeddings, loaded.lookahead.embeddings, loaded.lookahead.prefix)
    return Batcher(
        context, inputs, parallel=loaded.settings.parallel, max_rows=loaded.calibration.widest_step
    )


def _context_settings(loaded: LoadedModel, choice: ScheduleChoice) -> ContextSettings:
    return replace(
        context_settings(loaded.model, loaded.settings, loaded.n_cells),
        sequences=loaded.n_sequences,
        rollback=choice.rollback,
        batch_size=loaded.calibration.prompt_batch,
    )


def open_sessions(
    loaded: LoadedModel, batcher: Batcher, make_schedule: Callable[[], Schedule]
) -> tuple[Session, ...]:
    """Return the sessions, as many as the settings say."""
    n_vocab, rule = loaded.base.n_vocab, loaded.settings.verify
    return tuple(
        Session(batcher, make_schedule(), number, n_vocab=n_vocab, rule=rule)
        for number in range(loaded.settings.parallel)
    )
