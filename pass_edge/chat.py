"""A conversation as messages: kept, saved to a file and loaded from one."""

from __future__ import annotations

import json
from pathlib import Path

from pass_edge.native.errors import SettingsError
from pass_edge.native.output import written_whole

FORMAT = "pass-edge-chat"
ROLES = ("system", "user", "assistant")


class Conversation:
    """Messages (dicts with ``role`` and ``content``) with an optional system message in front."""

    def __init__(self, system: str | None = None) -> None:
        self.turns: list[dict[str, str]] = []
        self.system = system

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages, the system's first: what an engine's ``chat`` takes."""
        front = [{"role": "system", "content": self.system}] if self.system else []
        return front + self.turns

    def ask(self, content: str) -> None:
        self.turns.append({"role": "user", "content": content})

    def answer(self, content: str) -> None:
        self.turns.append({"role": "assistant", "content": content})

    def withdraw(self) -> None:
        """Take the last message back, for a question that could not be answered."""
        self.turns.pop()

    def save(self, path: str | Path) -> None:
        """Write all messages as JSON; the file appears only once it is whole. Raises OutputError."""
        content = json.dumps({"format": FORMAT, "messages": self.messages}, ensure_ascii=False, indent=1)
        with written_whole(path) as unfinished:
            unfinished.write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Conversation:
        """The conversation in ``path``. Raises SettingsError if it cannot be read or is none."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"the chat {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(f"{path} is no saved chat: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise SettingsError(f"{path} is no saved chat: it lacks the mark {FORMAT!r}")
        messages = content.get("messages")
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise SettingsError(f"{path} is damaged: its messages are not role and content")
        has_system = bool(messages) and messages[0]["role"] == "system"
        conversation = cls(messages[0]["content"] if has_system else None)
        conversation.turns = messages[has_system:]
        return conversation


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)
    )
