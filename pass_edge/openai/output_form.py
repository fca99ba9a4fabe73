"""The form that a request gives its text, as one grammar: GBNF, a JSON schema, a regular expression, choices.

The fields come from OpenAI (``response_format``), llama.cpp (``grammar``, ``json_schema``) and vLLM
(``structured_outputs``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pass_edge.native.constraint import lark_grammar, schema_grammar
from pass_edge.native.errors import SettingsError

from .requests import Request

_ANY_OBJECT = {"type": "object"}


def form_grammar(request: Request) -> str:
    """Return the grammar of the text that ``request`` asks for; empty if it may be any text. Raises
    SettingsError, also if more than one field gives the text a form."""
    grammars = {
        "grammar": _grammar_text(request.grammar),
        "response_format": _format_grammar(request.response_format),
        "json_schema": "" if request.json_schema is None else schema_grammar(request.json_schema),
        "structured_outputs": _structured_grammar(request.structured_outputs),
    }
    given = [name for name, grammar in grammars.items() if grammar]
    if len(given) > 1:
        raise SettingsError(f"{' and '.join(given)} exclude each other; give one")
    return "".join(grammars.values())


def _grammar_text(grammar: object) -> str:
    text = getattr(grammar, "_grammar", grammar)  # where a LlamaGrammar keeps its GBNF
    if text is None or isinstance(text, str):
        return text or ""
    raise SettingsError("grammar must be GBNF text, or a LlamaGrammar")


def _format_grammar(response_format: Mapping[str, Any] | None) -> str:
    kind = response_format.get("type") if response_format else "text"
    if response_format is None or kind == "text":
        return ""
    if kind == "json_object":
        schema = response_format.get("schema")
        return schema_grammar(_ANY_OBJECT if schema is None else schema)
    try:
        if kind == "json_schema":
            return schema_grammar(response_format["json_schema"]["schema"])
    except (KeyError, TypeError):
        raise SettingsError(
            'a response_format of type json_schema must have {"json_schema": {"schema": …}}'
        ) from None
    raise SettingsError(
        f"unknown response format {json.dumps(kind)}; known are text, json_object, json_schema"
    )


def _structured_grammar(structured: Mapping[str, Any] | None) -> str:
    given = {name: value for name, value in (structured or {}).items() if value not in (None, False)}
    if not given:
        return ""
    if len(given) > 1 or not set(given) <= set(_STRUCTURES):
        raise SettingsError(
            f"structured_outputs has {', '.join(given)}; it must have one of {', '.join(_STRUCTURES)}"
        )
    ((name, value),) = given.items()
    return _STRUCTURES[name](value)


def _schema(value: Any) -> str:
    try:
        return schema_grammar(json.loads(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise SettingsError(f"the JSON schema cannot be used: {error}") from error


def _regex(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise SettingsError("a regex of structured_outputs must be text")
    part = re.sub(r"\\.|[/\n]", lambda each: {"/": r"\/", "\n": r"\n"}.get(each[0], each[0]), value)
    return lark_grammar(f"start: /{part}/", {})


def _choice(value: Any) -> str:
    if (
        not isinstance(value, Sequence)
        or not value
        or not all(isinstance(each, str) and each for each in value)
    ):
        raise SettingsError("a choice of structured_outputs must be a list of texts")
    return lark_grammar(f"start: {' | '.join(json.dumps(each, ensure_ascii=False) for each in value)}", {})


_STRUCTURES = {
    "json": _schema,
    "json_object": lambda _: schema_grammar(_ANY_OBJECT),
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar_text,
}
