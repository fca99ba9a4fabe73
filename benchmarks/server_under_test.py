"""A server under test, and the checks that ``server_behaviours.py`` makes of it.

Each check is a function whose docstring is its row in docs/server-compatibility.md. It passes unless it
raises.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import openai

PROMPT = "I believe the meaning of life is"
CHAT: list[Any] = [
    {"role": "system", "content": "Book"},
    {"role": "user", "content": "What is the best book"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "test",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {"success": {"type": "boolean", "const": True}},
            "required": ["success"],
        },
    },
}
WORDS = ["the", "The", "to", "a", "an", "be", "is", "was", "but", "and", "so", "you", "he", "it", "book"]
KEY = "sk-secret"
CHECKS: list[tuple[str, Callable[[Server], None]]] = []


class Server:
    """A server under test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, Any, Any]:
        """Status, JSON (or text) and headers of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method or None)
        request.add_header("Content-Type", "application/json")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, raw, answered = response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            status, raw, answered = error.code, error.read(), error.headers
        try:
            return status, json.loads(raw), answered
        except ValueError:
            return status, raw.decode(), answered

    def get(self, path: str, body: Any = None, **more: Any) -> Any:
        """The answer, which must be 200."""
        status, content, _ = self.ask(path, body if body is None else {**body, **more})
        assert status == 200, content
        return content

    def events(self, path: str, **body: Any) -> list[Any]:
        text = self.get(path, {**body, "stream": True})
        data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        return [json.loads(each) for each in data if each != "[DONE]"]

    def complete(self, prompt: Any = PROMPT, **body: Any) -> Any:
        return self.get("/completion", {"prompt": prompt, "n_predict": 8, "seed": 42, **body})

    def chat(self, **body: Any) -> Any:
        return self.get("/chat/completions", {"messages": CHAT, "max_tokens": 8, "seed": 42, **body})


def check(source: str) -> Callable[[Callable[[Server], None]], Callable[[Server], None]]:
    """Add a check; ``source``: the file of llama.cpp's tests."""

    def add(function: Callable[[Server], None]) -> Callable[[Server], None]:
        CHECKS.append((source, function))
        return function

    return add
