"""Calls of Gemma: ``<start_function_call>call:name{key:<escape>text<escape>,other:1}<end_function_call>``,
and of Gemma 4: ``<|tool_call>call:name{key:<|"|>text<|"|>,other:1}<tool_call|>``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pass_edge.native.lark_rules import LarkRules

from .arguments_schema import listed_values, resolved
from .call import Call, IncompleteError, Reader, Schema, Schemas

_KEY = re.compile(r"([{,]\s*)([A-Za-z_][\w.-]*)\s*:")
_KINDS = ("string", "number", "boolean", "null", "array", "object")


def reader(opening: str, closing: str, quote: str) -> Reader:
    """Return the reader of a call, which returns it once it is complete."""
    named = re.compile(rf"{re.escape(opening)}\s*call:([\w.-]+)\s*(?=\{{)")
    beginning = re.compile(rf"{re.escape(opening)}\s*(?:c|ca|cal|call|call:[\w.-]*\s*)?")

    def read(text: str, schemas: Schemas) -> Call | None:
        name, end = named.match(text), text.find(closing)
        if end < 0:
            if name or beginning.fullmatch(text):
                raise IncompleteError
            return None
        if not name:
            return None
        parts = text[name.end() : end].split(quote)  # every other one is a string
        written = [
            json.dumps(part, ensure_ascii=False) if i % 2 else _KEY.sub(r'\1"\2":', part)
            for i, part in enumerate(parts)
        ]
        try:
            arguments = json.loads("".join(written))
        except (ValueError, RecursionError):
            return None
        return Call(name[1], json.dumps(arguments, ensure_ascii=False), end + len(closing))

    return read


def writer(quote: str) -> Callable[[Schema, LarkRules], str]:
    """Return the function that gives the Lark expression of the arguments."""

    def write(schema: Schema, rules: LarkRules) -> str:
        return _Values(schema, rules, quote).object(resolved(schema, schema))

    return write


class _Values:
    """Lark expressions of values, in which texts stand between ``quote`` and keys are bare."""

    def __init__(self, root: Schema, rules: LarkRules, quote: str) -> None:
        self._root, self._rules, self._quote = root, rules, quote

    def value(self, schema: Any) -> str:
        """A value that matches ``schema``, as far as its types, enumerations, properties and items go."""
        schema = resolved(schema, self._root)
        key = json.dumps([self._quote, schema], sort_keys=True)
        return self._rules.recursive(key, lambda: self._rules.any_of(self._alternatives(schema)))

    def object(self, schema: Schema) -> str:
        """An object; without properties in its schema, any."""
        properties, rules = schema.get("properties"), self._rules
        if not isinstance(properties, dict):
            member = f"/[A-Za-z_][\\w.-]*/ {rules.text(':')} {self.value({})}"
            return f"{rules.text('{')} ({member} ({rules.text(',')} {member})*)? {rules.text('}')}"
        needed = schema.get("required") or ()
        members = [
            (f"{rules.text(f'{name}:')} {self.value(each)}", name in needed)
            for name, each in properties.items()
        ]
        return f"{rules.text('{')} {rules.listed(members, ',')} {rules.text('}')}"

    def _alternatives(self, schema: Schema) -> list[str]:
        if (values := listed_values(schema)) is not None:
            return [self._literal(value) for value in values]
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                return [self.value(each) for each in schema[key]]
        kinds = schema.get("type", _KINDS)
        return [self._of_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)]

    def _of_kind(self, kind: str, schema: Schema) -> str:
        rules = self._rules
        if kind == "string":
            return f"{rules.text(self._quote)} {rules.until(self._quote)}"
        if kind == "object":
            return self.object(schema)
        if kind == "array":
            item = self.value(schema.get("items", {}))
            return f"{rules.text('[')} ({item} ({rules.text(',')} {item})*)? {rules.text(']')}"
        bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
        return rules.json({"type": kind, **{key: schema[key] for key in bounds if key in schema}})

    def _literal(self, value: Any) -> str:
        if isinstance(value, str):
            return self._rules.text(f"{self._quote}{value}{self._quote}")
        return self._rules.text(json.dumps(value, ensure_ascii=False))
