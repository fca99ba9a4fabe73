"""One answer: steps of a session turned into text, until something ends it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from pass_edge.decoding.session import Session, Step
from pass_edge.decoding.slots import SlotPool
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.sampling.logprobs import Logprob, logprob_of
from pass_edge.sampling.sampler import Sampler

from .async_stream import in_a_thread
from .stats import Stats
from .text_stream import TextStream


@dataclass(frozen=True)
class Piece:
    """Text that became certain in one pass. ``drafted``: by tokens that were drafted and accepted, not by
    the one that the pass chose itself."""

    text: str
    drafted: bool


class Generation:
    """Iterate, with ``for`` or ``async for``, for pieces of text as they become certain (``pieces`` tells
    drafted ones apart); stop at any time.

    It runs when iterated, once the engine has a session for it. One that is left in the middle goes
    on when it is iterated again; its text so far is then read anew if another generation of that thread
    came between. ``cancel`` may be called from any thread, all else from one at a time.

    Attributes: ``seed``; and, complete once iteration ends, ``ids`` (the generated tokens, without the
    one that ended it), ``text``, ``stats``, ``logprobs`` (for each of ``ids``, if asked for),
    ``finish_reason``: "stop" (end token or stop string), "length", "context" (the context is full),
    "cancelled", or None while running.
    """

    def __init__(
        self,
        turns: SlotPool,
        vocabulary: Vocabulary,
        prompt: Sequence[int],
        sampler: Sampler,
        *,
        max_tokens: int,
        at_limit: str,
        stop: Sequence[str],
        logprobs: int | None,
    ) -> None:
        """``at_limit``: the finish reason when ``max_tokens`` are out; ``logprobs``: how many alternatives
        each token's logprob comes with, None for no logprobs."""
        self._turns = turns
        self._vocabulary = vocabulary
        self._said = list(prompt)  # and what came of it
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._at_limit = at_limit
        self._alternatives = logprobs
        self._output = TextStream(vocabulary, stop)
        self._cancelled = False
        self._ready: deque[Piece] = deque()
        self.seed = sampler.seed
        self.ids: list[int] = []
        self.text = ""
        self.logprobs: list[Logprob] = []
        self.finish_reason: str | None = None
        self.stats = Stats(prompt_tokens=len(prompt))

    def __iter__(self) -> Generator[str, None, None]:
        with closing(self._passes()) as passes:
            for pieces in passes:
                text = "".join(piece.text for piece in pieces)
                pieces.clear()
                self.text += text
                yield text

    def __aiter__(self) -> AsyncIterator[str]:
        return in_a_thread(iter(self), self.cancel)

    def pieces(self) -> Generator[Piece, None, None]:
        """The answer's text as it comes: of each pass first what was drafted, then what was not."""
        with closing(self._passes()) as passes:
            for pieces in passes:
                while pieces:
                    piece = pieces.popleft()
                    self.text += piece.text
                    yield piece

    def _passes(self) -> Generator[deque[Piece], None, None]:
        """What each pass made ready; what is not taken of it waits for whoever goes on."""
        try:
            while self._ready or self.finish_reason is None:
                if not self._ready:
                    self._take_turn()
                if self._ready:
                    yield self._ready
        finally:
            self._turns.give(self)

    def run(self) -> Generation:
        """Generate to the end without looking at the pieces."""
        for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """End it after the pass that is under way, or before it has begun; from any thread."""
        self._cancelled = True

    def _take_turn(self) -> None:
        session, is_new = self._turns.take(self, self._said)
        if is_new:
            self._read(session)
        self._advance(session)

    def _read(self, session: Session) -> None:
        began = time.perf_counter()
        reused = session.prefill(self._said, lambda: not self._cancelled)
        if not self.ids:
            self.stats.reused_tokens = reused
        self.stats.prompt_seconds += time.perf_counter() - began

    def _advance(self, session: Session) -> None:
        """Make ready the text that one step makes certain."""
        began = time.perf_counter()
        drafted = chosen = ""
        if self._cancelled:
            self.finish_reason = "cancelled"
        else:
            step = session.step(self._sampler)
            self.stats.count(step)
            *before, chosen = (self._take(step, i) for i in range(len(step.tokens)))
            drafted = "".join(before)
        if self.finish_reason:
            chosen += self._output.finish()
        self._ready += (piece for piece in (Piece(drafted, True), Piece(chosen, False)) if piece.text)
        self.stats.seconds += time.perf_counter() - began

    def _take(self, step: Step, i: int) -> str:
        if self.finish_reason:
            return ""
        token = step.tokens[i]
        self.stats.tokens += 1
        if self._vocabulary.is_end(token):
            self.finish_reason = "stop"
            return ""
        self.ids.append(token)
        self._said.append(token)
        if self._alternatives is not None:
            self.logprobs.append(logprob_of(token, step.logits[i], self._alternatives))
        piece = self._output.feed(token) if self._vocabulary.has_text else ""
        if self._output.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._max_tokens:
            self.finish_reason = self._at_limit
        return piece
