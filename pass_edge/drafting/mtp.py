"""Drafts from a model's own MTP layers (multi-token prediction: DeepSeek-V3, arXiv 2412.19437, section 2.2).

An MTP layer predicts the token after the next one, from a token and the model's hidden state of the token
before it. It runs in a context of its own over the model's weights, with a KV cache of its own, and so is
used as a draft model is. In a chain of drafts, what follows the first one comes from the layer's own states,
so their cells are computed again once the model's states are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.model import Model

from .draft_model import DraftConversation, DraftModel
from .lookahead import Floats

_STATES_KEPT = 4096
"""Hidden states of so many tokens wait to be read; without them, drafts come from a shorter context."""


class MtpLayers(DraftModel):
    """A model's own MTP layers, for all conversations of an engine. As a DraftModel otherwise."""

    trial_tokens = 4
    """The hidden states tell what came before: from 1 token or 250, as many first drafts are right."""

    def _open_context(self, model: Model, settings: ContextSettings) -> Context:
        context = super()._open_context(model, replace(settings, mtp=True))
        context.keep_mtp_states()
        return context

    def new_conversation(self, depth: int, n_alternatives: int = 0) -> MtpConversation:
        self._n_conversations += 1
        return MtpConversation(self, self._n_conversations - 1, depth, n_alternatives)

    def decode(
        self, sequence: int, start: int, tokens: Sequence[int], states: Floats | None = None
    ) -> Floats:
        """Decode ``tokens`` at the positions from ``start`` on, each with the hidden state of the token
        before it: ``states`` (n, n_embd) float32; None: zeros. Return the logits after the last of them,
        (n_vocab,) float32, valid until the next decode."""
        if states is None:
            states = np.zeros((len(tokens), self.model.n_embd), np.float32)
        rows = rows_of_sequence(start, len(tokens), sequence=sequence, outputs=1)
        self.context.decode_mtp(rows, np.array(tokens, np.int32), states)
        return self.context.logits(1)[0, : self._n_vocab]


class MtpConversation(DraftConversation):
    """A DraftSource: the MTP layers in one conversation. Not thread-safe."""

    def __init__(self, layers: MtpLayers, sequence: int, depth: int, n_alternatives: int = 0) -> None:
        super().__init__(layers, sequence, depth, n_alternatives)
        self._layers = layers
        self._states = np.zeros((0, layers.model.n_embd), np.float32)
        """Room for the model's hidden states of the tokens from ``_first_state`` on."""
        self._first_state = self._n_states = 0
        self._last_state = np.zeros((1, layers.model.n_embd), np.float32)
        """The layer's own state of the last token that it decoded."""
        self._n_computed = 0
        """Tokens of ``_held`` whose cells come from the model's states."""

    def observe_states(self, start: int, states: Floats) -> None:
        """Copy the model's hidden states of the tokens at the positions from ``start`` on, (n, n_embd)
        float32. Those of later tokens are forgotten."""
        n_kept = start - self._first_state
        if not 0 <= n_kept <= self._n_states:
            self._first_state, n_kept = start, 0
        if n_kept + len(states) > len(self._states):
            n_kept = self._make_room(n_kept, len(states))
        self._n_states = n_kept + len(states)
        self._states[n_kept : self._n_states] = states

    def _make_room(self, n_kept: int, count: int) -> int:
        """Make room for ``count`` states after the first ``n_kept``, of which the oldest are forgotten if
        there are too many. Return how many are left."""
        n_left = n_kept if n_kept + count <= _STATES_KEPT else min(n_kept, _STATES_KEPT // 2)
        n_rows = max(n_left + count, min(2 * n_left, _STATES_KEPT))
        room = np.zeros((n_rows, self._states.shape[1]), np.float32)
        room[:n_left] = self._states[n_kept - n_left : n_kept]
        self._states = room
        self._first_state += n_kept - n_left
        return n_left

    def _decode(self, tokens: Sequence[int]) -> Floats:
        start = len(self._held)
        is_draft = start >= self.length
        states = self._last_state if is_draft else self._states_before(start, len(tokens))
        logits = self._layers.decode(self._sequence, start, tokens, states)
        self._last_state = self._layers.context.mtp_states(len(tokens))[-1:].copy()
        self._held += tokens
        if not is_draft:
            self._n_computed = len(self._held)
        return logits

    def _states_before(self, start: int, count: int) -> Floats:
        """Return the states of the tokens before those at the positions from ``start`` on, (count, n_embd);
        zeros before the first token, and where they are not known."""
        first = start - 1 - self._first_state
        if 0 <= first <= self._n_states - count:
            return self._states[first : first + count]
        states = np.zeros((count, self._states.shape[1]), np.float32)
        known = self._states[max(0, first) : max(0, min(first + count, self._n_states))]
        states[max(0, -first) :][: len(known)] = known
        return states

    @property
    def n_skipped(self) -> int:
        return max(0, self._first_read - self._first_readable)

    @property
    def _first_readable(self) -> int:
        """The first token that the layers can read: the state before it is known, or it is the first one."""
        return min(self._first_state + bool(self._first_state), self.length - 1)

    def skip_to(self, position: int) -> None:
        super().skip_to(position)
        self._n_computed = position

    def _find_right(self) -> None:
        self._cut(self._n_computed)
        super()._find_right()
        first = self._first_readable
        if self._n_right < first - 1:  # the cells of what comes before cannot be computed any more
            self.skip_to(first)
        self._n_computed = self._n_right
