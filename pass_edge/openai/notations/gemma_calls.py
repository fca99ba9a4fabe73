"""Calls of Gemma: ``<start_function_call>call:name{key:<escape>text<escape>,other:1}<end_function_call>``."""

from __future__ import annotations

import json
import re

from .call import Call, IncompleteError

_OPEN, _CLOSE, _QUOTE = "<start_function_call>", "<end_function_call>", "<escape>"
_NAME = re.compile(rf"{_OPEN}\s*call:([\w.-]+)(?=\{{)")
_KEY = re.compile(r"([{,]\s*)([A-Za-z_][\w.-]*)\s*:")


def read(text: str) -> Call | None:
    """Read a call; it is returned once it is complete."""
    name, end = _NAME.match(text), text.find(_CLOSE)
    if end < 0:
        if name or re.fullmatch(rf"{_OPEN}\s*(?:c|ca|cal|call|call:[\w.-]*)?", text):
            raise IncompleteError
        return None
    if not name:
        return None
    parts = text[name.end() : end].split(_QUOTE)  # every other one is a string
    written = [
        json.dumps(part, ensure_ascii=False) if i % 2 else _quoted_keys(part) for i, part in enumerate(parts)
    ]
    try:
        arguments = json.loads("".join(written))
    except (ValueError, RecursionError):
        return None
    return Call(name[1], json.dumps(arguments, ensure_ascii=False), end + len(_CLOSE))


def _quoted_keys(text: str) -> str:
    return _KEY.sub(r'\1"\2":', text)
