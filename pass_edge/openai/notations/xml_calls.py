"""Calls whose arguments are elements like XML's, one for each parameter."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pass_edge.native.lark_rules import LarkRules

from . import json_calls
from .arguments_schema import is_text, may_be_text, parameters, required, texts_of
from .call import Call, IncompleteError, Schema, Schemas

_SPACE = r"(?:｜DSML｜|[\w-]+:)?"  # of names


@dataclass(frozen=True)
class Dialect:
    """``function``: a pattern of how a call begins, whose group is the name; ``beginning`` one of what may
    still become that; ``parameter``: one of a whole parameter, whose groups are name and value; ``end``: one
    of the end. ``before``, ``after``: what a model writes around a value; %NAME is its parameter,
    and %STRING whether it is text."""

    function: str
    beginning: str
    parameter: str
    end: str
    before: str
    after: str

    def read(self, text: str, schemas: Schemas) -> Call | None:
        """Read a call, whose arguments are returned parameter by parameter. It may also be JSON, as other
        models of the same family write it."""
        function = re.compile(self.function).match(text)
        if function:
            return self._arguments(text, function, parameters(schemas.get(function[1], {})))
        if re.fullmatch(self.beginning, text):
            raise IncompleteError
        return json_calls.read(text, schemas) if text.lstrip().startswith("{") else None

    def write(self, schema: Schema, rules: LarkRules) -> str:
        """Return the Lark expression of the arguments; a text is held to its enumeration only."""
        needed = required(schema)
        written = [rules.text("")]
        for name, each in parameters(schema).items():
            texts, after = texts_of(each), rules.text(self.after)
            if texts:
                value = f"{rules.any_of([rules.text(text) for text in texts])} {after}"
            elif may_be_text(each):
                value = rules.until(self.after)
            else:
                value = f"{rules.json(each)} {after}"
            before = self.before.replace("%NAME", name).replace("%STRING", str(is_text(each)).lower())
            element = f"{rules.text(before)} {value}"
            written.append(element if name in needed else f"({element})?")
        return " ".join(written)

    def _arguments(self, text: str, function: re.Match[str], schemas: Mapping[str, Schema]) -> Call:
        position, arguments = function.end(), []
        pattern = re.compile(self.parameter, re.DOTALL)
        while parameter := pattern.match(text, position):
            value = json.dumps(_value(parameter[2], schemas.get(parameter[1], {})), ensure_ascii=False)
            arguments.append(f"{json.dumps(parameter[1], ensure_ascii=False)}: {value}")
            position = parameter.end()
        end = re.compile(self.end).match(text, position)
        so_far = "{" + ", ".join(arguments)
        return Call(function[1], so_far + "}" * bool(end), end.end() if end else None)


QWEN = Dialect(
    r"\s*<function=([^>\s]+)>\s*",
    r"\s*(?:<[^>]*)?",
    r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>\s*",
    r"</function>",
    "<parameter=%NAME>\n",
    "\n</parameter>\n",
)
"""Qwen3-Coder, Qwen3.5, Nemotron 3, Seed-OSS:
``<function=name><parameter=key>value</parameter></function>``."""

INVOKE = Dialect(
    rf'\s*<{_SPACE}(?:invoke|function) name="([^"]+)">\s*',
    r"\s*(?:<[^>]*)?",
    rf'<{_SPACE}param(?:eter)? name="([^"]+)"[^>]*>(?:<!\[CDATA\[)?\n?(.*?)\n?(?:\]\]>)?'
    rf"</{_SPACE}param(?:eter)?>\s*",
    rf"</{_SPACE}(?:invoke|function)>",
    '<parameter name="%NAME">',
    "</parameter>\n",
)
"""MiniMax M2: ``<invoke name="name"><parameter name="key">value</parameter></invoke>``."""

DSML = replace(
    INVOKE, before='<｜DSML｜parameter name="%NAME" string="%STRING">', after="</｜DSML｜parameter>\n"
)
"""DeepSeek V3.2 and V4: the same with a prefix, which says of each value whether it is text."""

MINICPM = replace(INVOKE, before='<param name="%NAME">', after="</param>")
"""MiniCPM5: ``<function name="name"><param name="key">value</param></function>``."""

GLM = Dialect(
    r"\s*([\w.-]+)\s*(?=<arg_key>|</tool_call>)",
    r"\s*[\w.-]*\s*(?:<[^>]*)?",
    r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*",
    r"</tool_call>",
    "<arg_key>%NAME</arg_key>\n<arg_value>",
    "</arg_value>\n",
)
"""GLM 4.5 and later: ``<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>``."""


def _value(text: str, schema: Schema) -> Any:
    """A value that is written as a template writes it: text as it is, everything else as JSON or Python."""
    if is_text(schema):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
            json.dumps(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return text
    return text if isinstance(value, str) and may_be_text(schema) else value
