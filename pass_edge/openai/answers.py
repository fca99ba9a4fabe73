"""An answer while it is being generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence

from pass_edge.async_stream import in_a_thread
from pass_edge.generation import Generation

from .formatters import ChatFormatter, Json, TextFormatter, usage_of
from .response_formatter import ResponseFormatter


class Answer:
    """The answer to one request: a generation for each choice, which run one after the other.

    Iterate over its chunks with ``for`` or ``async for``, or ask for its ``result``. Either runs the
    generations, so do one of them, once. ``cancel`` ends it from any thread, after the current pass.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        formatter: TextFormatter | ChatFormatter | ResponseFormatter,
        *,
        n: int = 1,
        include_usage: bool = False,
    ) -> None:
        """``n``: generations for each prompt; ``include_usage``: whether the last chunk holds the usage."""
        self.generations = generations
        self._formatter = formatter
        self._n = n
        self._include_usage = include_usage

    def __iter__(self) -> Generator[Json, None, None]:
        for index, generation in enumerate(self.generations):
            yield from self._formatter.first_chunks(index)
            n_sent = 0
            for text in generation:
                yield from self._formatter.text_chunks(index, generation, text, n_sent)
                n_sent = len(generation.logprobs)
            yield from self._formatter.last_chunks(index, generation, n_sent)
        if self._include_usage:
            yield self._formatter.usage_chunk(self.usage)

    def __aiter__(self) -> AsyncGenerator[Json, None]:
        return in_a_thread(iter(self), self.cancel)

    def result(self) -> Json:
        """Run to the end and return OpenAI's result object."""
        for generation in self.generations:
            generation.run()
        return self._formatter.result(self.generations, self.usage)

    async def aresult(self) -> Json:
        """Await ``result``. Cancelling the task that waits cancels the answer."""
        async for _ in in_a_thread(self._texts(), self.cancel):
            pass
        return self._formatter.result(self.generations, self.usage)

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
