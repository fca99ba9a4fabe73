"""Calls that write the name first and the arguments behind it, as a JSON object."""

from __future__ import annotations

import re

from . import json_calls
from .call import Call, IncompleteError, Reader, Schemas, after, json_end


def named(opening: str, beginning: str = r"[^{]*") -> Reader:
    """Return the reader of an object behind ``opening``, a pattern whose one filled group is the name.
    ``beginning``: a pattern of what may still become the opening."""
    whole, start = re.compile(opening + r"\s*(?=\{)"), re.compile(beginning)

    def read(text: str, schemas: Schemas) -> Call | None:
        found = whole.match(text)
        if not found:
            if start.fullmatch(text):
                raise IncompleteError
            return None
        end = json_end(text, found.end())
        return Call(next(filter(None, found.groups())), text[found.end() : end], end)

    return read


_MISTRAL = named(
    r"\[TOOL_CALLS\]\s*([\w.-]+)(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?",
    r"\[TOOL_CALLS\]\s*[\w.-]*(?:\[\w*\]?\w*)*\s*",
)
_MISTRAL_LIST = after("[TOOL_CALLS]", json_calls.read)


def mistral(text: str, schemas: Schemas) -> Call | None:
    """Read ``[TOOL_CALLS][{…}]``, or ``[TOOL_CALLS]name[ARGS]{…}``."""
    rest = text[len("[TOOL_CALLS]") :].lstrip()
    if not rest:
        raise IncompleteError
    return (_MISTRAL_LIST if rest[0] in "[{" else _MISTRAL)(text, schemas)


harmony = named(
    r"(?:<\|channel\|>(?:commentary|analysis))? ?to=functions\.([\w.-]+)"
    r"(?:<\|channel\|>(?:commentary|analysis))?\s*(?:(?:<\|constrain\|>)?\s*json)?\s*<\|message\|>"
)
"""Reads a message of gpt-oss to a function."""

deepseek = named(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([\w.-]+)\s*```json|([\w.-]+)<｜tool▁sep｜>)"
)
"""Reads a call of DeepSeek R1, V3 and V3.1."""

kimi = named(r"<\|tool_call_begin\|>\s*(?:functions\.)?([\w.-]+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>")
"""Reads a call of Kimi K2."""

functionary = named(r"<function=([\w.-]+)>", r"<function=[\w.-]*>?\s*")
"""Reads a call of Functionary v3.1."""
