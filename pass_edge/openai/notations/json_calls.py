"""Calls whose arguments are a JSON object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from .call import Call, IncompleteError, json_end

_STRING = r'"(?:[^"\\]|\\.)*"'
_OPENING = re.compile(
    rf'\{{\s*(?:"(?:type|id)"\s*:\s*{_STRING}\s*,\s*)*"name"\s*:\s*({_STRING})\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_HARMONY = re.compile(
    r"(?:<\|channel\|>(?:commentary|analysis))? ?to=functions\.([\w.-]+)"
    r"(?:<\|channel\|>(?:commentary|analysis))?\s*(?:(?:<\|constrain\|>)?\s*json)?\s*<\|message\|>\s*(?=\{)"
)
_DEEPSEEK = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([\w.-]+)\s*```json\s*|([\w.-]+)<｜tool▁sep｜>\s*)(?=\{)"
)
_MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*([\w.-]+)(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*(?=\{)")


def read(text: str) -> Call | None:
    """Read ``{"name": …, "arguments": {…}}``, or the first such object of a list. As soon as name and
    arguments have begun, the arguments are returned as they come."""
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
        arguments = text[opening.end() : arguments_end]
        return Call(json.loads(opening[1]), arguments, end)
    if end is None:
        raise IncompleteError
    try:
        value = json.loads(text[start:end])
    except (ValueError, RecursionError):
        return None
    return _whole(value, end)


def _whole(value: Any, end: int) -> Call | None:
    """The call that a complete object is, whatever the order of its keys."""
    function = value.get("function", value)
    if not isinstance(function, dict):
        return None
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
        return None
    return Call(function["name"], json.dumps(arguments, ensure_ascii=False), end)


def after(mark: str) -> Callable[[str], Call | None]:
    """Return the reader of such an object after ``mark``."""

    def read_after(text: str) -> Call | None:
        return shifted(read(text[len(mark) :]), len(mark))

    return read_after


def mistral(text: str) -> Call | None:
    """Read ``[TOOL_CALLS][{…}]``, or ``[TOOL_CALLS]name[ARGS]{…}``."""
    mark = len("[TOOL_CALLS]")
    rest = text[mark:].lstrip()
    if not rest:
        raise IncompleteError
    if rest[0] in "[{":
        return shifted(read(text[mark:]), mark)
    return _named(text, _MISTRAL, r"\[TOOL_CALLS\]\s*[\w.-]*(?:\[\w*\]?\w*)*\s*")


def harmony(text: str) -> Call | None:
    """Read a message of gpt-oss to a function."""
    return _named(text, _HARMONY, r"[^{]*")


def deepseek(text: str) -> Call | None:
    """Read a call of DeepSeek R1, V3 and later."""
    return _named(text, _DEEPSEEK, r"[^{]*")


def _named(text: str, opening: re.Pattern[str], beginning: str) -> Call | None:
    """Read an object after ``opening``, which has the name; ``beginning``: what may still become that."""
    found = opening.match(text)
    if not found:
        if re.fullmatch(beginning, text):
            raise IncompleteError
        return None
    end = json_end(text, found.end())
    return Call(next(filter(None, found.groups())), text[found.end() : end], end)


def shifted(call: Call | None, by: int) -> Call | None:
    """Return ``call``, which was read ``by`` characters later."""
    if call is None or call.end is None:
        return call
    return Call(call.name, call.arguments, call.end + by)
