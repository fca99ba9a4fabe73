"""A tool call as far as it has been read, and scanning of values that are not complete yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Schema = Mapping[str, Any]
Schemas = Mapping[str, Schema]
"""The JSON schema of each tool's arguments, by the name of the tool."""

_JSON_PART = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\]]', re.DOTALL)


@dataclass(frozen=True)
class Call:
    """``arguments``: the JSON text of the arguments so far; it only grows while more text comes. ``end``: the
    length of the call in the text, None while it is not complete."""

    name: str
    arguments: str
    end: int | None

    def shifted(self, by: int) -> Call:
        """Return the call, which was read ``by`` characters behind its beginning."""
        return self if self.end is None else replace(self, end=self.end + by)


class IncompleteError(Exception):
    """Whether the text is a call cannot be said before more of it has come."""


Reader = Callable[[str, Schemas], "Call | None"]
"""Reads the call at the start of a text: None if it is no call. Raises IncompleteError where more text is
needed."""


def after(mark: str, read: Reader) -> Reader:
    """Return the reader of a call behind ``mark``."""

    def read_after(text: str, schemas: Schemas) -> Call | None:
        call = read(text[len(mark) :], schemas)
        return call and call.shifted(len(mark))

    return read_after


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
