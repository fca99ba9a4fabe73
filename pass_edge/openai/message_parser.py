"""From generated text to the parts of an assistant's message: thinking, text for the user, tool calls."""

from __future__ import annotations

from typing import Any

from pass_edge.thinking import Thinking, ThinkingParser

from .tools import ToolCallParser

Json = dict[str, Any]


class MessageParser:
    """Parses a text while it arrives, as OpenAI streams messages. Attributes: ``calls``, in OpenAI's form."""

    def __init__(self, thinking: Thinking | None, tools: ToolCallParser, begun: str = "") -> None:
        """``begun``: what the content begins with, before the text."""
        self._begun = [{"content": begun}] if begun else []
        self._thinking = ThinkingParser(thinking)
        self._tools = tools
        self.calls = tools.calls

    def feed(self, text: str) -> list[Json]:
        """Add ``text`` and return the deltas that it makes certain."""
        thought, answer = self._thinking.feed(text)
        begun, self._begun = self._begun, []
        return [*begun, *_reasoning(thought), *self._tools.feed(answer)]

    def finish(self) -> list[Json]:
        """End the text: return the last deltas."""
        thought, answer = self._thinking.feed("", is_last=True)
        return [*self._begun, *_reasoning(thought), *self._tools.feed(answer), *self._tools.finish()]

    @property
    def is_complete(self) -> bool:
        """Whether there are calls, and all of them are whole."""
        return self._tools.is_complete


def _reasoning(thought: str) -> list[Json]:
    return [{"reasoning_content": thought}] if thought else []
