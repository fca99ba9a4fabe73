"""One answer: steps of a session turned into text, until something ends it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pass_edge.decoding.session import Session, Step
from pass_edge.decoding.slots import SlotPool
from pass_edge.native.context import Floats
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.sampling.logprobs import Logprob, logprob_of
from pass_edge.sampling.processed import UNDRAFTED
from pass_edge.sampling.sampler import Sampler

from .async_stream import in_a_thread
from .line_limit import LineLimit
from .stats import Stats
from .text_stream import TextStream
from .thinking import Thinking

StoppingCriterion = Callable[[npt.NDArray[np.intc], Floats], bool]
"""(the tokens so far, the logits (n_vocab,) float32 of the next one) → whether to stop before it."""


def any_meets(criteria: Sequence[StoppingCriterion], tokens: Sequence[int], logits: Floats) -> bool:
    """Return whether one of ``criteria`` is met. All are asked, because they may keep state."""
    met = [criterion(np.array(tokens, np.intc), logits.copy()) for criterion in criteria]
    return any(met)


@dataclass(frozen=True)
class Piece:
    """The text of one pass: first of the ``drafted`` tokens that it accepted, then of the ``sampled`` token
    that it chose itself."""

    drafted: str
    sampled: str

    @property
    def text(self) -> str:
        return self.drafted + self.sampled


class Generation:
    """Iterate, with ``for`` or ``async for``, for the text as it comes (``pieces`` marks drafted text); stop
    at any time.

    It runs while it is iterated, once the engine has a session for it. If a loop is left early, a later loop
    continues; the text so far is then read again if another generation of that thread came between.
    ``cancel`` may be called from any thread, everything else from one at a time.

    Attributes: ``seed``; ``sampling``; ``thinking``, the tags of the thinking that the text may begin with;
    ``conversation``, the prompt and the answer so far as tokens; and, complete once iteration ends, ``ids``
    (the generated tokens, without the one that ended it), ``text``, ``stats``, ``logprobs`` (for each of
    ``ids``, if asked for), ``prompt_logprobs`` (for each token of the prompt but the first, if asked for),
    ``stop_string`` (the one that ended it, or empty), ``finish_reason``: "stop" (end token, stop string or
    stopping criterion), "length", "context" (the context is full), "cancelled", or None while running.
    """

    def __init__(
        self,
        slots: SlotPool,
        vocabulary: Vocabulary,
        prompt: Sequence[int],
        sampler: Sampler,
        *,
        max_tokens: int,
        limit_reason: str,
        stop: Sequence[str],
        logprobs: int | None,
        scores_prompt: bool = False,
        visible: Collection[int] = (),
        ends: Collection[int] = (),
        thinking: Thinking | None = None,
        stopping_criteria: Sequence[StoppingCriterion] = (),
        min_tokens: int = 0,
        kept_stops: Collection[str] = (),
        line_limit: LineLimit | None = None,
    ) -> None:
        """``limit_reason``: the finish reason when ``max_tokens`` are reached; ``logprobs``: how many
        alternatives each token's logprob has, None for no logprobs; ``visible``: control tokens whose text is
        part of the text; ``ends``: tokens that end it as end tokens do; ``thinking``: what the text may begin
        with; the others: as for ``Engine.stream``."""
        self._slots = slots
        self._vocabulary = vocabulary
        self.conversation = list(prompt)  # and the answer so far
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._limit_reason = limit_reason
        self._alternatives = logprobs
        self._scores_prompt = scores_prompt and logprobs is not None
        self._ends = ends
        self._output = TextStream(vocabulary, stop, visible, thinking, kept_stops)
        self._min_tokens = min_tokens
        self._line_limit = line_limit
        self._stopping_criteria = stopping_criteria
        self.thinking = thinking
        self._cancelled = False
        self.seed = sampler.seed
        self.sampling = sampler.sampling
        self.ids: list[int] = []
        self.text = ""
        self.logprobs: list[Logprob] = []
        self.prompt_logprobs: list[Logprob] = []
        self.finish_reason: str | None = None
        self.stats = Stats(prompt_tokens=len(prompt))

    def __iter__(self) -> Generator[str, None, None]:
        with closing(self.pieces()) as pieces:
            for piece in pieces:
                yield piece.text

    def __aiter__(self) -> AsyncIterator[str]:
        return in_a_thread(iter(self), self.cancel)

    def pieces(self) -> Generator[Piece, None, None]:
        """Yield the text of each pass that has any."""
        try:
            while self.finish_reason is None:
                piece = self._next_piece()
                if piece.text:
                    self.text += piece.text
                    yield piece
        finally:
            self._slots.release(self)

    def run(self) -> Generation:
        """Generate to the end."""
        for _ in self.pieces():
            pass
        return self

    def cancel(self) -> None:
        """End the generation after the current pass, or before its first; from any thread."""
        self._cancelled = True

    @property
    def stop_string(self) -> str:
        return self._output.stop_string

    def _next_piece(self) -> Piece:
        session, is_new = self._slots.acquire(self, self.conversation)
        if is_new:
            self._read_prompt(session)
        if not self._max_tokens:
            self.finish_reason = self._limit_reason
            return Piece("", "")
        began = time.perf_counter()
        piece = self._step(session)
        self.stats.seconds += time.perf_counter() - began
        return piece

    def _read_prompt(self, session: Session) -> None:
        began = time.perf_counter()
        if self._scores_prompt:
            self._score_prompt(session)
        reused = session.prefill(self.conversation, lambda: not self._cancelled)
        if not self.ids:
            self.stats.reused_tokens = reused
        self.stats.prompt_seconds += time.perf_counter() - began

    def _score_prompt(self, session: Session) -> None:
        self._scores_prompt = False
        prompt = self.conversation[: self.stats.prompt_tokens]
        for length in range(1, len(prompt)):
            if self._cancelled:
                return
            session.prefill(prompt[:length])
            (logits,) = session.step(UNDRAFTED).logits
            self.prompt_logprobs.append(logprob_of(prompt[length], logits, self._alternatives or 0))

    def _step(self, session: Session) -> Piece:
        if self._cancelled:
            self.finish_reason = "cancelled"
            return Piece("", self._output.finish())
        step = session.step(self._sampler)
        self.stats.count(step)
        *drafted, sampled = (self._take(step, i) for i in range(len(step.tokens)))
        if self.finish_reason:
            sampled += self._cut(self._output.finish())
        return Piece("".join(drafted), sampled)

    def _cut(self, text: str) -> str:
        return self._line_limit.cut(text, self.stats.seconds) if self._line_limit else text

    def _take(self, step: Step, i: int) -> str:
        """Add token ``i`` of ``step`` to the answer, and return the text that it makes certain."""
        if self.finish_reason:
            return ""
        if self._stopping_criteria and any_meets(self._stopping_criteria, self.conversation, step.logits[i]):
            self.finish_reason = "stop"
            return ""
        token = step.tokens[i]
        self.stats.tokens += 1
        if self._vocabulary.is_end(token) or token in self._ends:
            self.finish_reason = "stop"
            return ""
        self.ids.append(token)
        self.conversation.append(token)
        if self._alternatives is not None:
            self.logprobs.append(logprob_of(token, step.logits[i], self._alternatives))
        text = ""
        if self._vocabulary.has_text:
            text = self._cut(self._output.feed(token, may_stop=len(self.ids) > self._min_tokens))
        if self.stop_string:
            self.finish_reason = "stop"
        elif self._line_limit and self._line_limit.is_reached:
            self.finish_reason = "length"
        elif len(self.ids) >= self._max_tokens:
            self.finish_reason = self._limit_reason
        return text
