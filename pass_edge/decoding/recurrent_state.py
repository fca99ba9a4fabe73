"""How a recurrent memory goes back to what it held before.

A recurrent layer has one state for all tokens so far, from which no token can be taken out again. llama.cpp
can keep the states of the last few tokens for some kinds of models (``Context.n_rollback``). Before a pass
with more drafts than states are kept, the state is copied; if more of them are rejected, the copy is
restored, and the accepted tokens are decoded again (*replayed*).

The state at the end of the last prompt is copied too. So a prompt that begins like the last one need not be
read again from its first token on.
"""

from __future__ import annotations

from dataclasses import dataclass

from pass_edge.native.context import Bytes, Context


@dataclass(frozen=True)
class _Copy:
    """The ``state`` after the first ``length`` tokens."""

    length: int
    state: Bytes


class RecurrentState:
    """The recurrent state of one conversation, and the copies of it. Not thread-safe. Where the context's
    settings rule returns out, nothing is copied."""

    def __init__(self, context: Context, sequence: int) -> None:
        self._context, self._sequence = context, sequence
        self.reset()

    def reset(self) -> None:
        """Forget all copies: the memory holds another text."""
        self._prompt: _Copy | None = None
        self._last: _Copy | None = None
        self._is_prompt = self._context.settings.rollback is not None

    def extend_prompt(self) -> None:
        """Note that part of a prompt has been decoded."""
        self._is_prompt = self._context.settings.rollback is not None

    def before_pass(self, length: int, *, copies: bool) -> None:
        """Copy the state after the first ``length`` tokens, all that is decoded, if it ends a prompt, or if
        ``copies`` is set: ``undo_pass`` may follow."""
        if self._is_prompt:
            self._prompt = self._last = self._copy(length)
            self._is_prompt = False
        elif copies:
            spare = self._last.state if self._last and self._last is not self._prompt else None
            self._last = self._copy(length, spare)

    def longest_kept(self, length: int) -> int:
        """Return how many of the first ``length`` tokens the copied state can be returned to: 0 if none."""
        return self._prompt.length if self._prompt and self._prompt.length <= length else 0

    def return_to_prompt(self) -> None:
        """Go back to the end of the last prompt, of which all tokens must be kept. Raises ContextError."""
        assert self._prompt
        self._restore(self._prompt)

    def undo_pass(self) -> None:
        """Go back to before the last pass, for which the state was copied. Raises ContextError."""
        assert self._last
        self._restore(self._last)

    def _copy(self, length: int, spare: Bytes | None = None) -> _Copy:
        return _Copy(length, self._context.save_state(self._sequence, spare))

    def _restore(self, copy: _Copy) -> None:
        self._context.restore_state(self._sequence, copy.state, copy.length)
