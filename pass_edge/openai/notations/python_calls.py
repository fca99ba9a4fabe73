"""Calls as Python writes them, of LFM2 and others: ``[name(key="value", other=1)]``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable

from . import json_calls
from .call import Call, IncompleteError

_NAME = re.compile(r"\s*\[?\s*([A-Za-z_][\w.]*)\(")
_PART = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|["'()\[\]{}]""", re.DOTALL)


def after(mark: str) -> Callable[[str], Call | None]:
    """Return the reader of a call after ``mark``; it may also be JSON."""

    def read_after(text: str) -> Call | None:
        return json_calls.shifted(read(text[len(mark) :]), len(mark))

    return read_after


def read(text: str) -> Call | None:
    """Read a call with keyword arguments; it is returned once it is complete."""
    name = _NAME.match(text)
    if not name:
        if re.fullmatch(r"\s*\[?\s*[\w.]*", text):
            raise IncompleteError
        return json_calls.read(text) if text.lstrip()[:1] in ("[", "{") else None
    end = _closing(text, name.end() - 1)
    if end is None:
        raise IncompleteError
    try:
        call = ast.parse(text[name.start(1) : end], mode="eval").body
        assert isinstance(call, ast.Call)
        arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        if call.args:
            return None
        return Call(name[1], json.dumps(arguments, ensure_ascii=False), end)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, AssertionError):
        return None


def _closing(text: str, start: int) -> int | None:
    depth = 0
    for part in _PART.finditer(text, start):
        if part[0] in ('"', "'"):
            return None
        depth += (part[0] in "([{") - (part[0] in ")]}") if len(part[0]) == 1 else 0
        if depth == 0:
            return part.end()
    return None
