"""Calls of Qwen3-Coder: ``<function=name><parameter=key>value</parameter></function>``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from . import json_calls
from .call import Call, IncompleteError, may_become

_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>\s*")
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_END = "</function>"


def after(mark: str) -> Callable[[str], Call | None]:
    """Return the reader of a call after ``mark``; it may also be JSON, as Qwen's other models write it."""

    def read_after(text: str) -> Call | None:
        rest = text[len(mark) :]
        function = _FUNCTION.match(rest)
        if function:
            return json_calls.shifted(_parameters(rest, function), len(mark))
        body = rest.lstrip()
        if not body or may_become(body, "<function=") or re.fullmatch(r"<function=[^>\s]*", body):
            raise IncompleteError
        return json_calls.shifted(json_calls.read(rest), len(mark)) if body[0] == "{" else None

    return read_after


def _parameters(text: str, function: re.Match[str]) -> Call:
    position, arguments = function.end(), []
    while parameter := _PARAMETER.match(text, position):
        arguments.append(
            f"{json.dumps(parameter[1])}: {json.dumps(_value(parameter[2]), ensure_ascii=False)}"
        )
        position = parameter.end()
    is_complete = text.startswith(_END, position)
    so_far = "{" + ", ".join(arguments)
    return Call(function[1], so_far + "}" * is_complete, position + len(_END) if is_complete else None)


def _value(text: str) -> Any:
    """A value that is written as in a template: text as it is, everything else as JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)
    return text if isinstance(value, str) else value
