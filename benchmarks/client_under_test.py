"""What the checks of clients share: what they ask, and how a check is added.

The docstring of a check says what its client did. Only what the protocol decides is checked, not how good the
answers are: a text is the same whole and streamed, an object has the fields that were asked for, a tool gets
the arguments of its schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

KEY = "any"
QUESTION = "What is the capital of France? Answer in one sentence."
WANTED = "Give me Paris and its country as JSON."
ASKED = "What is the weather in Paris?"
CHECKS: list[tuple[str, Callable[[str], None]]] = []
try:
    from pydantic import BaseModel

    class City(BaseModel):
        """A city."""

        city: str
        country: Literal["France", "Italy"]

except ImportError:  # of the clients, aider and openai's for JavaScript do without it
    pass


class Weather:
    """A tool that notes which cities it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def weather(self, city: str) -> str:
        """Return the weather in a city.

        Args:
            city: The name of the city.
        """
        self.asked.append(city)
        return f"It rains in {city}."


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Return the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def check(package: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Add a check of the client whose distribution is ``package``."""

    def add(function: Callable[[str], None]) -> Callable[[str], None]:
        CHECKS.append((package, function))
        return function

    return add


def same(whole: str | None, pieces: Iterable[str | None]) -> None:
    """Check a text and its stream."""
    streamed = list(pieces)
    assert whole
    assert "Paris" in whole, whole
    assert "".join(filter(None, streamed)) == whole, streamed
    assert len(streamed) > 1, streamed
