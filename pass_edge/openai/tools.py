"""Tool calls: forced by a grammar, or read out of what a model says in its own way.

Models write a call as a JSON object with ``name`` and ``arguments`` (or ``parameters``), alone, in a list, or
between ``<tool_call>`` tags; which of them is a matter of the model's training, and its template says so to
it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pass_edge.native.constraint import lark_grammar
from pass_edge.native.errors import SettingsError

Json = dict[str, Any]
_OPENS, _CLOSES = "<tool_call>", "</tool_call>"


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The functions' names. Raises SettingsError on what is no function tool."""
    try:
        names = [tool["function"]["name"] for tool in tools]
        if all(isinstance(name, str) and name for name in names):
            return names
    except (KeyError, TypeError):
        pass
    raise SettingsError('a tool is {"type": "function", "function": {"name": …, "parameters": …}}')


def call_grammar(tools: Sequence[Mapping[str, Any]], wanted: str | None) -> str:
    """The grammar of one call of the tool named ``wanted``, or of any. Raises SettingsError if there is none
    such."""
    names = tool_names(tools)
    if wanted is not None and wanted not in names:
        raise SettingsError(f"the tool choice {wanted!r} is none of the tools")
    calls, schemas = [], {}
    for number, (name, tool) in enumerate(zip(names, tools, strict=True)):
        if wanted in (None, name):
            opening = json.dumps(f'{{"name": {json.dumps(name)}, "arguments": ')
            calls.append(f'{opening} @arguments_{number} "}}"')
            schemas[f"arguments_{number}"] = tool["function"].get("parameters") or {"type": "object"}
    return lark_grammar("start: " + " | ".join(calls), schemas)


class CallReader:
    """Text in as it comes, text for the user out; what may be a call is held back until the end shows."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` of the tools; with none, all text is for the user."""
        self._names = names
        self._shown = False
        self._held = ""

    def feed(self, text: str) -> str:
        """What of the text so far is certainly no call, and was not given out yet."""
        self._held += text
        if not self._names:
            keep = len(self._held)
        elif not self._shown and self._held.lstrip()[:1] in ("", "{", "["):
            keep = 0
        else:
            keep = self._held.find(_OPENS)
            if keep < 0:
                keep = len(self._held) - _overlap(self._held, _OPENS)
        released, self._held = self._held[:keep], self._held[keep:]
        self._shown = self._shown or bool(released)
        return released

    def finish(self) -> tuple[str, list[Json]]:
        """The end has come: text that was held back for nothing, and the calls as OpenAI has them."""
        calls = _calls(self._held, self._names) if self._names else []
        return ("" if calls else self._held), calls


def _overlap(text: str, mark: str) -> int:
    """How many letters at the end of ``text`` may begin ``mark``."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)


def _calls(text: str, names: Sequence[str]) -> list[Json]:
    """The calls that ``text`` is made of; none if anything in it is no call of one of the tools."""
    parts = text.replace(_CLOSES, "").split(_OPENS)
    try:
        said = [json.loads(part) for part in parts if part.strip()]
    except (ValueError, RecursionError):
        return []
    listed = [call for part in said for call in (part if isinstance(part, list) else [part])]
    made = [_call(call) for call in listed if isinstance(call, dict) and call.get("name") in names]
    return made if len(made) == len(listed) else []


def _call(said: Mapping[str, Any]) -> Json:
    arguments = said.get("arguments", said.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": said["name"], "arguments": text}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}
