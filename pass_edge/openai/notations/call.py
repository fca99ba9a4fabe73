"""A tool call as far as it has been read, and scanning of values that are not complete yet."""

from __future__ import annotations

import re
from dataclasses import dataclass

_JSON_PART = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\]]', re.DOTALL)


@dataclass(frozen=True)
class Call:
    """``arguments``: the JSON text of the arguments so far; it only grows while more text comes. ``end``: the
    length of the call in the text, None while it is not complete."""

    name: str
    arguments: str
    end: int | None


class IncompleteError(Exception):
    """Whether the text is a call cannot be said before more of it has come."""


def json_end(text: str, start: int) -> int | None:
    """Return where the JSON object or array that begins at ``start`` ends; None if it does not end yet."""
    depth = 0
    for part in _JSON_PART.finditer(text, start):
        if part[0] in ("{", "["):
            depth += 1
        elif part[0] in ("}", "]"):
            depth -= 1
            if depth == 0:
                return part.end()
        elif part[0] == '"':  # a string that does not end
            return None
    return None


def may_become(text: str, beginning: str) -> bool:
    """Return whether ``text`` is too short to tell whether it begins with ``beginning``."""
    return len(text) < len(beginning) and beginning.startswith(text)
