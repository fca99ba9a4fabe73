"""Drafts from a draft model: a small model with the tokenizer of the large one.

It has a context of its own, in which each conversation has a sequence. A sequence follows its conversation
only when it is asked for drafts: rejected drafts are removed from it, and the tokens that it lacks are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pass_edge.calibration.calibration import check_model
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.errors import SettingsError
from pass_edge.native.file_kind import Kind, check_generates, kind_of
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.model import Model, check_is_gguf
from pass_edge.settings import Settings, context_settings, on_gpu, with_fitting_layers

from .drafter import DraftToken, StepResult, drawn
from .heads import HeadLogits
from .lookahead import Floats

READ_AT_ONCE = 128
"""Most tokens of a conversation that are read between two passes: other conversations wait meanwhile."""
FEW_TOKENS = 8
"""So few tokens are not read before the first draft, but in the pass that gives it."""
_MEASURED_TOKENS, _MEASUREMENTS = 32, 3
_MEASURED_STEPS = 10
_CORRECTION_RATE = 0.1
"""Weight of the newest time in ``step_seconds`` and ``token_seconds``."""
_OUTLIER = 4.0
"""A time counts at most so many times the mean."""


def check_draft(path: Path) -> Path:
    """Return ``path`` if its metadata are those of a whole model that may draft. Raises SettingsError,
    ModelError."""
    with GgufFile(check_is_gguf(path)) as file:
        if kind_of(file) == Kind.DRAFT:
            raise SettingsError(
                f"{path} is a draft head of the kind {file.text('general.architecture')}, which llama.cpp "
                "lets its own programs use alone; give a whole model, smaller and with the same tokenizer"
            )
        check_generates(file)
    return path


def load_draft(
    path: Path, model: Model, n_vocab: int, settings: Settings, note: Callable[[str], None]
) -> Model:
    """Load the draft model in ``path``, and check that it can draft for ``model``, of which the first
    ``n_vocab`` tokens may be sampled. Raises SettingsError, ModelError, LibraryError."""
    gpu_layers = with_fitting_layers(_own_settings(settings), path).gpu_layers or 0
    draft = Model(path, gpu_layers=gpu_layers, repack=check_model(path, note))
    try:
        _check_fits(draft, model, n_vocab)
    except BaseException:
        draft.close()
        raise
    return draft


def _check_fits(draft: Model, model: Model, n_vocab: int) -> None:
    if draft.is_recurrent:
        raise SettingsError(
            f"{draft.path} cannot draft: rejected drafts cannot be removed from the recurrent memory of a "
            f"{draft.architecture} model; give a draft model with attention alone"
        )
    if difference := model.vocabulary.difference_from(draft.vocabulary, n_vocab):
        raise SettingsError(
            f"{draft.path} cannot draft for {model.path}: {difference}; a draft model must have the same "
            "tokenizer, as smaller models of one family do"
        )


def _own_settings(settings: Settings) -> Settings:
    """Return the settings of a draft model for a model with ``settings``: its bits do not matter, so it has
    the usual cache, and it takes what is left of a GPU."""
    gpu_layers = None if on_gpu(settings) else 0
    return replace(settings, gpu_layers=gpu_layers, cache_type_k=None, cache_type_v=None)


class DraftModel:
    """A draft model, for all conversations of an engine. Close it when done. Not thread-safe.

    Attributes: ``model``; ``context``; ``step_seconds``: time of a pass over one token, with that of reading
    its logits; ``token_seconds``: time of each token of text that is read. Both are measured at the start,
    and corrected by what drafting and reading take. ``n_asked``: chains begun so far.
    """

    trial_tokens = 16
    """So many tokens are read for a trial, if reading all that is lacking is not paid for."""

    def __init__(
        self,
        model: Model,
        n_vocab: int,
        settings: Settings,
        parallel: int = 1,
        cells: int = 4096,
        threads: tuple[int, int] | None = None,
    ) -> None:
        """``model`` stays the caller's. ``n_vocab``: tokens of the large model, and ``settings``: its own.
        ``parallel`` conversations have ``cells`` KV cells in all. ``threads``: for one token, and for
        several; None: as in ``settings``. Raises ContextError."""
        chosen = context_settings(model, _own_settings(settings), cells)
        self.context = self._open_context(model, replace(chosen, sequences=parallel, batch_size=READ_AT_ONCE))
        if threads:
            self.context.set_threads(*threads)
        self.model, self._n_vocab = model, n_vocab
        self.n_asked = self._n_conversations = 0
        self.token_seconds = self._measured(_MEASURED_TOKENS, _MEASUREMENTS) / _MEASURED_TOKENS
        self.step_seconds = self._measured(1, _MEASURED_STEPS)
        self.context.clear()

    def _open_context(self, model: Model, settings: ContextSettings) -> Context:
        return Context(model, settings)

    def _measured(self, count: int, repeats: int) -> float:
        """Return the seconds of a pass over ``count`` tokens, the fastest of ``repeats``."""
        seconds = []
        for _ in range(repeats):
            self.context.clear()
            began = time.perf_counter()
            _head_logits(self.decode(0, 0, [0] * count))
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    def new_conversation(self, depth: int, n_alternatives: int = 0) -> DraftConversation:
        """Return a source of chains of up to ``depth`` tokens, with up to ``n_alternatives`` to each token;
        for one more of the conversations."""
        self._n_conversations += 1
        return DraftConversation(self, self._n_conversations - 1, depth, n_alternatives)

    def decode(self, sequence: int, start: int, tokens: Sequence[int]) -> Floats:
        """Decode ``tokens`` at the positions from ``start`` on. Return the logits after the last of them,
        (n_vocab,) float32: -inf for tokens that only the large model has. Valid until the next decode."""
        own = self.model.n_vocab
        # the sizes may differ by padding, which is no text and may be read as any token
        ids = np.minimum(np.array(tokens, np.int32), own - 1)
        self.context.decode_tokens(rows_of_sequence(start, len(ids), sequence=sequence, outputs=1), ids)
        logits = self.context.logits(1)[0]
        if own >= self._n_vocab:
            return logits[: self._n_vocab]
        return np.pad(logits, (0, self._n_vocab - own), constant_values=-np.inf)

    def observe_reading(self, count: int, seconds: float) -> None:
        """Correct ``token_seconds``: ``count`` tokens were read in ``seconds``."""
        self.token_seconds = _corrected(self.token_seconds, seconds / count)

    def observe_step(self, n_read: int, seconds: float) -> None:
        """Correct ``step_seconds``: a token was drafted, and ``n_read`` others were read, in ``seconds``."""
        self.step_seconds = _corrected(self.step_seconds, seconds - n_read * self.token_seconds)

    def close(self) -> None:
        """Free the context; safe to call twice. The model stays."""
        self.context.close()


class DraftConversation:
    """A DraftSource: the draft model in one conversation. Not thread-safe.

    Attributes: ``depth``: most tokens of a chain; ``length``: tokens of the conversation, with the root;
    ``token_seconds``, ``step_seconds``, ``trial_tokens``: those of the draft model.
    """

    def __init__(self, draft_model: DraftModel, sequence: int, depth: int, n_alternatives: int = 0) -> None:
        """``sequence``: of the draft model's context. Other arguments: as for ``new_conversation``."""
        self._model = draft_model
        self._sequence, self.depth, self._n_alternatives = sequence, depth, n_alternatives
        self._tokens: list[int] = []
        self._held: list[int] = []
        """What the sequence holds: the beginning of the conversation, then drafts that may be wrong."""
        self._n_right = 0
        """Tokens of ``_held`` that are known to be the conversation's."""
        self._first_read = 0
        """Tokens of ``_held`` that were not read: drafts come from a shorter context."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Start a conversation that holds ``tokens``, the root last."""
        self._tokens, self._n_right = list(tokens), 0

    def append(self, tokens: Sequence[int]) -> None:
        """Continue the conversation with ``tokens``, the new root last."""
        self._tokens += tokens

    @property
    def length(self) -> int:
        return len(self._tokens)

    @property
    def token_seconds(self) -> float:
        return self._model.token_seconds

    @property
    def step_seconds(self) -> float:
        return self._model.step_seconds

    @property
    def trial_tokens(self) -> int:
        return self._model.trial_tokens

    @property
    def n_lacking(self) -> int:
        """The number of tokens that must be read before it can draft: at least the root."""
        self._find_right()
        return self.length - self._n_right

    @property
    def n_skipped(self) -> int:
        """The number of tokens that were skipped, and could be read."""
        return self._first_read

    def skip_to(self, position: int) -> None:
        """Forget what was read, and go on as if the tokens before ``position`` were."""
        self._cut(0)
        self._held = self._tokens[:position]
        self._n_right = self._first_read = position

    def read_from_start(self) -> None:
        """Forget what was read if tokens before it were skipped."""
        if self.n_skipped:
            self._cut(0)

    def read(self) -> int:
        """Read up to ``READ_AT_ONCE`` of the tokens that are lacking, but not the last few. Return how
        many."""
        began = time.perf_counter()
        count = min(self.n_lacking - 1, READ_AT_ONCE)
        self._decode(self._tokens[self._n_right : self._n_right + count])
        self._model.observe_reading(count, time.perf_counter() - began)
        return count

    def draft_tokens(self, result: StepResult) -> Iterator[DraftToken]:
        """Yield the tokens of the chain after the root; each is computed when it is asked for. Few tokens may
        be lacking."""
        self._model.n_asked += 1
        return drawn(self._predictions, result, self._n_alternatives)

    def _predictions(self, chain: Sequence[int]) -> Iterator[HeadLogits]:
        lacking = self._tokens[-self.n_lacking :]
        for _ in range(self.depth):
            began = time.perf_counter()
            logits = _head_logits(self._decode(lacking))
            self._model.observe_step(len(lacking) - 1, time.perf_counter() - began)
            yield logits
            lacking = [chain[-1]]

    def _decode(self, tokens: Sequence[int]) -> Floats:
        logits = self._model.decode(self._sequence, len(self._held), tokens)
        self._held += tokens
        return logits

    def _find_right(self) -> None:
        """Find how much of what is held is right, and remove the rest. The root is never held: only the pass
        that decodes it gives its logits."""
        n, held, tokens = self._n_right, self._held, self._tokens
        end = min(len(held), len(tokens) - 1)
        while n < end and held[n] == tokens[n]:
            n += 1
        self._n_right = n
        self._cut(n)

    def _cut(self, length: int) -> None:
        """Remove what is held beyond the first ``length`` tokens."""
        if length < len(self._held):
            self._model.context.remove(self._sequence, length)
            del self._held[length:]
            self._n_right = min(self._n_right, length)
            self._first_read = min(self._first_read, length)


def _head_logits(logits: Floats) -> HeadLogits:
    return HeadLogits.from_logits(logits, None, len(logits))


def _corrected(mean: float, newest: float) -> float:
    """Return the mean time with the newest one, of which outliers count less."""
    return mean + _CORRECTION_RATE * (min(max(newest, mean / _OUTLIER), mean * _OUTLIER) - mean)
