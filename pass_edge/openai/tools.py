"""Tool calls: forced by a grammar, or found in the generated text.

A model writes a call as a JSON object with ``name`` and ``arguments`` (or ``parameters``): alone, in a list,
or between ``<tool_call>`` tags. Its training decides which, and its chat template asks for the same form.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pass_edge.native.constraint import lark_grammar
from pass_edge.native.errors import SettingsError

Json = dict[str, Any]
_OPEN_TAG, _CLOSE_TAG = "<tool_call>", "</tool_call>"


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the functions. Raises SettingsError if a tool is not a function."""
    try:
        names = [tool["function"]["name"] for tool in tools]
        if all(isinstance(name, str) and name for name in names):
            return names
    except (KeyError, TypeError):
        pass
    raise SettingsError('a tool must be {"type": "function", "function": {"name": …, "parameters": …}}')


def forced_call_grammar(
    tools: Sequence[Mapping[str, Any]], tool_choice: str | Mapping[str, Any] | None
) -> str:
    """Return the grammar of the call that ``tool_choice`` forces; empty if none. Raises SettingsError."""
    if tool_choice in (None, "none", "auto"):
        return ""
    if not tools:
        raise SettingsError("tool_choice needs tools")
    if tool_choice == "required":
        return _call_grammar(tools, None)
    try:
        name = str(tool_choice["function"]["name"])  # type: ignore[index]
    except (KeyError, TypeError, IndexError):
        raise SettingsError(
            'tool_choice must be none, auto, required, or {"function": {"name": …}}'
        ) from None
    return _call_grammar(tools, name)


def _call_grammar(tools: Sequence[Mapping[str, Any]], chosen: str | None) -> str:
    """Return the grammar of a call of the tool named ``chosen``, or of any tool."""
    names = tool_names(tools)
    if chosen is not None and chosen not in names:
        raise SettingsError(f"tool_choice names {chosen!r}, which is not among the tools")
    calls, schemas = [], {}
    for number, (name, tool) in enumerate(zip(names, tools, strict=True)):
        if chosen in (None, name):
            opening = json.dumps(f'{{"name": {json.dumps(name)}, "arguments": ')
            calls.append(f'{opening} @arguments_{number} "}}"')
            schemas[f"arguments_{number}"] = tool["function"].get("parameters") or {"type": "object"}
    return lark_grammar("start: " + " | ".join(calls), schemas)


class ToolCallParser:
    """Separates text for the user from tool calls while the text arrives.

    Text that may belong to a call is held back until ``finish``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """``names``: the tools; without any, all text is for the user."""
        self._names = names
        self._has_released = False
        self._held = ""

    def feed(self, text: str) -> str:
        """Add ``text`` and return the new text that cannot belong to a call."""
        self._held += text
        if not self._names:
            length = len(self._held)
        elif not self._has_released and self._held.lstrip()[:1] in ("", "{", "["):
            length = 0
        else:
            length = self._held.find(_OPEN_TAG)
            if length < 0:
                length = len(self._held) - _overlap(self._held, _OPEN_TAG)
        released, self._held = self._held[:length], self._held[length:]
        self._has_released = self._has_released or bool(released)
        return released

    def finish(self) -> tuple[str, list[Json]]:
        """End the text: return the held text that is no call, and the calls in OpenAI's form."""
        calls = _parse_calls(self._held, self._names) if self._names else []
        return ("" if calls else self._held), calls


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest proper prefix of ``tag`` that ends ``text``."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)


def _parse_calls(text: str, names: Sequence[str]) -> list[Json]:
    """Return the calls in ``text``; none if any part of it is not a call of one of the tools."""
    parts = text.replace(_CLOSE_TAG, "").split(_OPEN_TAG)
    try:
        values = [json.loads(part) for part in parts if part.strip()]
    except (ValueError, RecursionError):
        return []
    candidates = [item for value in values for item in (value if isinstance(value, list) else [value])]
    calls = [_call(item) for item in candidates if isinstance(item, dict) and item.get("name") in names]
    return calls if len(calls) == len(candidates) else []


def _call(item: Mapping[str, Any]) -> Json:
    arguments = item.get("arguments", item.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": item["name"], "arguments": text}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}
