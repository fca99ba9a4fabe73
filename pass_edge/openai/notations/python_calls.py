"""Calls as Python writes them, of LFM2 and others: ``[name(key="value", other=1)]``."""

from __future__ import annotations

import ast
import json
import re

from pass_edge.native.lark_rules import LarkRules

from . import json_calls
from .arguments_schema import parameters, required
from .call import Call, IncompleteError, Schema, Schemas

_NAME = re.compile(r"\s*\[?\s*([A-Za-z_][\w.-]*)\(")
_KEY = re.compile(r"\s*(\w+)\s*=\s*")
_PART = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|["'()\[\]{},]""", re.DOTALL)
_JSON_NAMES = {"true": True, "false": False, "null": None}


def read(text: str, schemas: Schemas) -> Call | None:
    """Read a call with keyword arguments; it is returned once it is complete. It may also be JSON."""
    name = _NAME.match(text)
    if not name:
        if re.fullmatch(r"\s*\[?\s*[\w.-]*", text):
            raise IncompleteError
        return json_calls.read(text, schemas) if text.lstrip()[:1] in ("[", "{") else None
    parts = _split(text, name.end())
    if parts is None:
        raise IncompleteError
    written, end = parts
    arguments = {}
    try:
        for part in written:
            key = _KEY.match(part)
            if not key:
                return None
            value = _JsonNames().visit(ast.parse(part[key.end() :].strip(), mode="eval"))
            arguments[key[1]] = ast.literal_eval(value)
        # what JSON escapes as a pair, Python reads as two halves of a character
        as_json = json.dumps(arguments, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16")
        return Call(name[1], as_json, end)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def write(schema: Schema, rules: LarkRules) -> str:
    """Return the Lark expression of the arguments, whose values are written as JSON."""
    needed = required(schema)
    return rules.listed(
        [
            (f"{rules.text(f'{name}=')} {rules.json(each)}", name in needed)
            for name, each in parameters(schema).items()
        ],
        ", ",
    )


class _JsonNames(ast.NodeTransformer):
    """Takes JSON's names for Python's."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_JSON_NAMES[node.id]) if node.id in _JSON_NAMES else node


def _split(text: str, start: int) -> tuple[list[str], int] | None:
    """The arguments that begin at ``start``, and the end of the call; None if it does not end yet."""
    parts: list[str] = []
    depth = 1
    for part in _PART.finditer(text, start):
        if part[0] in ('"', "'"):  # a string that does not end
            return None
        if len(part[0]) == 1:
            depth += (part[0] in "([{") - (part[0] in ")]}")
        if depth == 0 or (depth == 1 and part[0] == ","):
            parts += [text[start : part.start()]] if text[start : part.start()].strip() else []
            start = part.end()
        if depth == 0:
            return parts, start
    return None
