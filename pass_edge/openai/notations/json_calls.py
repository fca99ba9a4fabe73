"""Calls that are a JSON object: ``{"name": "get_weather", "arguments": {"city": "Paris"}}``, alone or in a
list, or in a code block."""

from __future__ import annotations

import json
import re
from typing import Any

from .call import Call, IncompleteError, Schemas, json_end

_FENCE = re.compile(r"```\w*\s*")
_STRING = r'"(?:[^"\\]|\\.)*"'
_OPENING = re.compile(
    rf'\{{\s*(?:"(?:type|id|tool_call_id)"\s*:\s*{_STRING}\s*,\s*)*"(?:name|tool_name)"\s*:\s*({_STRING})\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


def read(text: str, schemas: Schemas) -> Call | None:
    """Read such an object, or the first one of a list. As soon as name and arguments have begun, the
    arguments are returned as they come."""
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[":
        start += 1
        start += len(text[start:]) - len(text[start:].lstrip())
    if start == len(text):
        raise IncompleteError
    if text[start] != "{":
        return None
    opening, end = _OPENING.match(text, start), json_end(text, start)
    if opening:
        arguments_end = json_end(text, opening.end())
        return Call(json.loads(opening[1]), text[opening.end() : arguments_end], end)
    if end is None:
        raise IncompleteError
    try:
        value = json.loads(text[start:end])
    except (ValueError, RecursionError):
        return None
    return _whole(value, end, schemas)


def read_fenced(text: str, schemas: Schemas) -> Call | None:
    """Read such an object, or the first one of a list, behind the first line of a code block."""
    fence = _FENCE.match(text)
    if fence is None:
        return None
    if fence.end() == len(text):
        raise IncompleteError
    call = read(text[fence.end() :], schemas)
    return call and call.shifted(fence.end())


def _whole(value: Any, end: int, schemas: Schemas) -> Call | None:
    """The call that a complete object is, whatever the order of its keys."""
    if len(value) == 1 and next(iter(value)) in schemas:  # Apertus: {"name": {arguments}}
        name, arguments = next(iter(value.items()))
        value = {"name": name, "arguments": arguments}
    function = value.get("function", value)
    if not isinstance(function, dict):
        return None
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    name = function.get("name", function.get("tool_name"))
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return Call(name, json.dumps(arguments, ensure_ascii=False), end)
