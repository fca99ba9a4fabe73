"""Choose the schedule, how many tokens it may draft ahead, and how many states are kept for them."""

from __future__ import annotations

from dataclasses import dataclass

from pass_edge.drafting.schedules import FORMS, rows_needed
from pass_edge.native.library import has_kernels, kernels
from pass_edge.native.llama_build.kernels import can_run_kernels
from pass_edge.planning.kept_states import cheap_states
from pass_edge.settings import AUTO, HEAD, MAX_RECURRENT_DRAFTS, PLAIN

from .loaded_model import LoadedModel, Setup

_STATES_PART = 0.5
"""The most memory that the states of a recurrent memory may take, as a part of the model's size."""
_NO_FILE = "there is no lookahead file for this model"


@dataclass(frozen=True)
class ScheduleChoice:
    """The schedule in force. ``max_drafts``: how many tokens it drafts ahead at most. ``rollback``: how many
    states a recurrent memory keeps for drafts; None if it cannot go back at all."""

    schedule: str
    max_drafts: int
    rollback: int | None


def choose_schedule(loaded: LoadedModel, setup: Setup) -> ScheduleChoice:
    """Choose the schedule of the settings, or plain decoding if the model cannot draft so; the notes get the
    reason."""
    wanted = loaded.settings.schedule
    max_drafts = 0 if wanted == PLAIN else _most_drafts(loaded, wanted)
    reason = _why_plain(loaded, wanted, max_drafts)
    schedule, max_drafts = (PLAIN, 0) if reason else (wanted, max_drafts)
    if reason:
        setup.notes.append(f"{reason}, so it decodes plainly")
    elif wanted != PLAIN:
        setup.notes.extend(_kernel_warnings(loaded))
    rollback = _kept_states(loaded, schedule, max_drafts, setup) if loaded.calibration.rolls_back else None
    return ScheduleChoice(schedule, max_drafts, rollback)


def _most_drafts(loaded: LoadedModel, schedule: str) -> int:
    """Return how many tokens ``schedule`` may draft ahead: 0 if no pass has room for one."""
    max_rows, wanted = loaded.calibration.widest_step, loaded.settings.draft_max
    if loaded.model.is_recurrent:
        wanted = wanted or (MAX_RECURRENT_DRAFTS if schedule == AUTO else 1)
        max_rows = min(max_rows, loaded.calibration.prompt_batch - 1)  # llama.cpp aborts on more states
    if schedule == AUTO:
        return min(wanted or max_rows, max_rows - 1)
    depth = wanted or 1
    if schedule != HEAD and loaded.lookahead is not None:
        depth = min(depth, len(loaded.lookahead))
    while depth and rows_needed(FORMS[schedule], depth) > max_rows:
        depth -= 1
    return depth


def _kept_states(loaded: LoadedModel, schedule: str, max_drafts: int, setup: Setup) -> int:
    """Return how many states a recurrent memory keeps for drafts, so that they stay small beside the model,
    and with the schedule auto, cheap beside a pass."""
    if not loaded.calibration.keeps_states:
        return 0
    all_states = loaded.n_sequences * loaded.calibration.state_bytes
    fitting = max(0, int(_STATES_PART * loaded.model.size / all_states) - 1)
    most = min(fitting, max_drafts)
    if most and schedule == AUTO:
        return cheap_states(loaded.model, loaded.settings, most, setup.note)
    return most


def recurrent_bytes(loaded: LoadedModel, choice: ScheduleChoice) -> int:
    """Return the size of the recurrent memory of all conversations; 0 without one."""
    states = (1 + (choice.rollback or 0)) * loaded.n_sequences
    return states * loaded.calibration.state_bytes


def _why_plain(loaded: LoadedModel, schedule: str, max_drafts: int) -> str:
    """Return why this model cannot draft as ``schedule`` does, "" if it can."""
    if schedule == PLAIN:
        return ""
    if not loaded.calibration.rolls_back:
        return f"the memory of a {loaded.model.architecture} model was not rolled back right"
    if schedule != AUTO and (missing := _missing_for(loaded, schedule)):
        return missing
    if not max_drafts:
        max_rows = loaded.calibration.widest_step
        return f"only {max_rows} tokens may share a pass here without changing the logits"
    return ""


def _missing_for(loaded: LoadedModel, schedule: str) -> str:
    """Return what the fixed ``schedule`` lacks, "" if nothing."""
    if schedule != HEAD:
        return why_no_lookahead_tokens(loaded)
    if not loaded.calibration.hidden_exact:
        return f"llama.cpp's {loaded.model.architecture} graph has no logits beside hidden states"
    if loaded.lookahead is None:
        return _NO_FILE
    return "" if loaded.lookahead.hidden_head else "this lookahead has no head for hidden states"


def why_no_lookahead_tokens(loaded: LoadedModel) -> str:
    """Return why lookahead tokens cannot be decoded with this model, "" if they can."""
    if loaded.model.is_recurrent:
        return f"lookahead tokens cannot share the state of a {loaded.model.architecture} model"
    if loaded.lookahead is None:
        return _NO_FILE
    if not len(loaded.lookahead):
        return "this lookahead has no lookahead embeddings"
    if not loaded.calibration.embeddings_exact:
        return f"llama.cpp's {loaded.model.architecture} graph does not take lookahead embeddings"
    return ""


def _kernel_warnings(loaded: LoadedModel) -> list[str]:
    warnings = []
    if loaded.calibration.width == 1:
        warnings.append(
            "batch sizes change the logits here, so the text may leave plain decoding's at a near tie"
        )
    if "Q4_1" in loaded.model.description and not kernels():
        advice = (
            "build and install ours: pass-edge setup"
            if can_run_kernels() and not has_kernels()
            else "drafting gains more in Q4_0: pass-edge quantize MODEL.gguf OUTPUT.gguf Q4_0"
        )
        warnings.append(f"llama.cpp's kernels are slow for several tokens in Q4_1; {advice}")
    return warnings
