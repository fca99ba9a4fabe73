"""A request being answered: its generations, one after the other, as chunks or as one object."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence

from pass_edge.async_stream import in_a_thread
from pass_edge.generation import Generation

from .formatters import ChatFormatter, Json, TextFormatter, usage_of


class Answer:
    """Iterate, with ``for`` or ``async for``, for chunks; or ask for the ``whole``. Either runs it, once.

    Attributes: ``generations``. ``cancel`` ends it within a pass, from any thread.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        shape: TextFormatter | ChatFormatter,
        *,
        n: int = 1,
        tells_usage: bool = False,
    ) -> None:
        """``n`` generations for each prompt; ``tells_usage``: whether a last chunk has it."""
        self.generations = generations
        self._shape = shape
        self._n = n
        self._tells_usage = tells_usage

    def __iter__(self) -> Generator[Json, None, None]:
        for index, generation in enumerate(self.generations):
            yield from self._shape.opening(index)
            told = 0
            for text in generation:
                yield from self._shape.piece(index, generation, text, told)
                told = len(generation.logprobs)
            yield from self._shape.closing(index, generation, told)
        if self._tells_usage:
            yield self._shape.usage_chunk(self.usage)

    def __aiter__(self) -> AsyncGenerator[Json, None]:
        return in_a_thread(iter(self), self.cancel)

    def whole(self) -> Json:
        """Run to the end: the result as one object."""
        for generation in self.generations:
            generation.run()
        return self._shape.whole(self.generations, self.usage)

    async def awhole(self) -> Json:
        """``whole``, to be awaited; cancelling the task that waits cancels the answer."""
        async for _ in in_a_thread(self._pieces(), self.cancel):
            pass
        return self._shape.whole(self.generations, self.usage)

    def _pieces(self) -> Generator[str, None, None]:
        for generation in self.generations:
            yield from generation

    def cancel(self) -> None:
        """End it after the pass under way."""
        for generation in self.generations:
            generation.cancel()

    @property
    def usage(self) -> Json:
        """OpenAI's usage object of what has run so far."""
        return usage_of(self.generations, self._n)
