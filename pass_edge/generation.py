"""One answer: steps of a session turned into text, until something ends it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pass_edge.native.vocabulary import Vocabulary

from .sampling import Sampler
from .session import Session
from .stats import Stats
from .text import TextStream


@dataclass(frozen=True)
class Piece:
    """Text that became certain in one pass. ``drafted``: by tokens that were drafted and accepted, not by
    the one that the pass chose itself."""

    text: str
    drafted: bool


class Generation:
    """Iterate for pieces of text as they become certain (``pieces`` tells drafted ones apart); stop
    iterating at any time.

    Attributes: ``seed``; and, complete once iteration ends, ``ids`` (the generated tokens, without the
    one that ended it), ``text``, ``stats``, ``finish_reason``: "stop" (end token or stop string), "length",
    "context" (the context is full), or None while running.
    """

    def __init__(
        self,
        session: Session,
        vocabulary: Vocabulary,
        prompt: Sequence[int],
        sampler: Sampler,
        *,
        max_tokens: int,
        at_limit: str,
        stop: Sequence[str],
    ) -> None:
        """``at_limit``: the finish reason when ``max_tokens`` are out."""
        self._session = session
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._at_limit = at_limit
        self._output = TextStream(vocabulary, stop)
        self.seed = sampler.seed
        self.ids: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.stats = Stats(prompt_tokens=len(prompt))

    def __iter__(self) -> Iterator[str]:
        return (piece.text for piece in self.pieces())

    def pieces(self) -> Iterator[Piece]:
        """The answer's text as it comes: of each pass first what was drafted, then what was not."""
        began = time.perf_counter()
        self.stats.reused_tokens = self._session.prefill(self._prompt)
        self.stats.prompt_seconds = time.perf_counter() - began
        while self.finish_reason is None:
            began = time.perf_counter()
            step = self._session.step(self._sampler)
            self.stats.count(step)
            drafted = "".join(map(self._take, step.tokens[:-1]))
            chosen = self._take(step.tokens[-1])
            if self.finish_reason:
                chosen += self._output.finish()
            self.stats.seconds += time.perf_counter() - began
            for piece in (Piece(drafted, True), Piece(chosen, False)):
                if piece.text:
                    self.text += piece.text
                    yield piece

    def run(self) -> Generation:
        """Generate to the end without looking at the pieces."""
        for _ in self:
            pass
        return self

    def _take(self, token: int) -> str:
        if self.finish_reason:
            return ""
        self.stats.tokens += 1
        if self._vocabulary.is_end(token):
            self.finish_reason = "stop"
            return ""
        self.ids.append(token)
        piece = self._output.feed(token) if self._vocabulary.has_text else ""
        if self._output.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._max_tokens:
            self.finish_reason = self._at_limit
        return piece
