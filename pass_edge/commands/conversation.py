"""A conversation as messages, for ``Engine.chat``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Conversation:
    """Messages (dicts with ``role`` and ``content``) with an optional system message in front."""

    def __init__(self, system: str | None = None) -> None:
        self.turns: list[Mapping[str, str]] = []
        self.system = system

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, str]]) -> Conversation:
        """Return a conversation with these ``messages``."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        conversation = cls(messages[0]["content"] if has_system else None)
        conversation.turns = list(messages[has_system:])
        return conversation

    @property
    def messages(self) -> list[Mapping[str, str]]:
        """All messages, the system message first."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def ask(self, content: str) -> None:
        """Add a message of the user."""
        self.turns.append({"role": "user", "content": content})

    def answer(self, content: str, thought: str = "") -> None:
        """Add a message of the assistant; its template decides whether the model sees the ``thought``
        again."""
        reasoning = {"reasoning_content": thought} if thought else {}
        self.turns.append({"role": "assistant", "content": content, **reasoning})

    def withdraw(self) -> None:
        """Remove the last message, a question that could not be answered."""
        self.turns.pop()
