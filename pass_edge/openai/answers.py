"""An answer while it is being generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing
from typing import Any

from pass_edge.async_stream import in_a_thread
from pass_edge.generation import Generation, Piece

from .formatters import ChatFormatter, Json, TextFormatter, timings_of, usage_of
from .llama_cpp_formatter import LlamaCppFormatter
from .response_formatter import ResponseFormatter

Formatter = TextFormatter | ChatFormatter | LlamaCppFormatter | ResponseFormatter


class Answer:
    """The answer to one request: a generation for each choice, which run one after the other.

    Iterate over its chunks with ``for`` or ``async for``, or ask for its ``result``. Either runs the
    generations, so do one of them, once. ``cancel`` ends it from any thread, after the current pass.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        formatter: Formatter,
        *,
        n: int = 1,
        include_usage: bool = False,
        include_timings: bool = False,
        mark_drafts: bool = False,
    ) -> None:
        """``n``: generations for each prompt; ``include_usage``: whether the last chunk holds the usage;
        ``include_timings``: whether chunks and result hold llama.cpp's timings; ``mark_drafts``: whether
        drafted text has chunks of its own, which say so."""
        self.generations = generations
        self._formatter = formatter
        self._n = n
        self._include_usage = include_usage
        self._include_timings = include_timings
        self._mark_drafts = mark_drafts

    def __iter__(self) -> Generator[Json, None, None]:
        for index, generation in enumerate(self.generations):
            yield from self._formatter.first_chunks(index)
            n_sent = 0
            with closing(generation.pieces()) as pieces:
                for text, marks in (part for piece in pieces for part in self._parts(piece)):
                    for chunk in self._formatter.text_chunks(index, generation, text, n_sent):
                        yield {**self._timed(chunk, [generation]), **marks}
                    n_sent = len(generation.logprobs)
            for chunk in self._formatter.last_chunks(index, generation, n_sent):
                yield self._timed(chunk, [generation])
        if self._include_usage:
            yield self._timed(self._formatter.usage_chunk(self.usage), self.generations)

    def _parts(self, piece: Piece) -> list[tuple[str, Json]]:
        """The texts of a pass that have chunks of their own, and what these chunks hold besides."""
        if not self._mark_drafts:
            return [(piece.text, {})]
        parts: list[tuple[str, Json]] = [(piece.drafted, {"drafted": True}), (piece.sampled, {})]
        return [(text, marks) for text, marks in parts if text]

    def __aiter__(self) -> AsyncGenerator[Json, None]:
        return in_a_thread(iter(self), self.cancel)

    def result(self) -> Json:
        """Run to the end and return OpenAI's result object."""
        for generation in self.generations:
            generation.run()
        return self._result()

    async def aresult(self) -> Json:
        """Await ``result``. Cancelling the task that waits cancels the answer."""
        async for _ in in_a_thread(self._texts(), self.cancel):
            pass
        return self._result()

    def _result(self) -> Any:
        result = self._formatter.result(self.generations, self.usage)
        if isinstance(result, list):  # llama.cpp's form of several choices: each has its own timings
            return result
        return self._timed(result, self.generations)

    def _timed(self, result: Json, generations: Sequence[Generation]) -> Json:
        return {**result, "timings": timings_of(generations)} if self._include_timings else result

    def _texts(self) -> Generator[str, None, None]:
        for generation in self.generations:
            yield from generation

    def cancel(self) -> None:
        """End the answer after the current pass."""
        for generation in self.generations:
            generation.cancel()

    @property
    def usage(self) -> Json:
        """OpenAI's usage object, for what has been generated so far."""
        return usage_of(self.generations, self._n)
