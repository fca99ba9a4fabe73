"""Which grammar constrains an answer: of a format, of tool calls, behind thinking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pass_edge.native.constraint import schema_grammar
from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.thinking import Thinking, behind_thinking

from .notations import Notation, Schemas
from .requests import ChatCompletionRequest
from .tools import ToolCallParser, forced_call_grammar, free_call_grammar, schemas_of


@dataclass(frozen=True)
class AnswerGrammar:
    """``grammar``: empty is any text. ``schemas``: of the tools whose calls the text may hold, in
    ``notation``. ``has_format``: whether a text without calls has a form of its own."""

    grammar: str
    schemas: Schemas
    notation: Notation
    has_format: bool
    is_parallel: bool

    def new_parser(self) -> ToolCallParser:
        """Return a parser that reads the calls of a text."""
        return ToolCallParser(
            self.schemas, self.notation, is_parallel=self.is_parallel, reads_bare=not self.has_format
        )


def answer_grammar(
    request: ChatCompletionRequest,
    tools: Sequence[Mapping[str, Any]],
    notation: Notation,
    thinking: Thinking | None,
    vocabulary: Vocabulary,
) -> AnswerGrammar:
    """Return the grammar of the answer to ``request``, which offers ``tools``. Raises SettingsError."""
    is_parallel = request.parallel_tool_calls is not False
    forced = forced_call_grammar(tools, request.tool_choice, notation, vocabulary, is_parallel=is_parallel)
    given, wanted = grammar_text(request.grammar), format_grammar(request.response_format)
    if given and (wanted or forced):
        raise SettingsError("grammar excludes response_format and a forced tool; give one")
    # a call that is forced is no answer that a format is for
    answer = "" if forced else given or wanted
    if answer and tools:
        notation = _with_opener(notation)
    if tools and not forced:
        before_answer = thinking.answer if thinking and answer else ""
        grammar = free_call_grammar(
            tools,
            notation,
            vocabulary,
            free_marks=thinking.texts if thinking and not answer else (),
            is_parallel=is_parallel,
            answer=answer,
            before_answer=before_answer,
        )
    else:
        grammar = forced or answer
    if thinking and (forced or answer):
        before_answer = "" if tools else thinking.answer
        grammar = behind_thinking(grammar, thinking, vocabulary, before=before_answer)
    schemas = schemas_of(tools)
    return AnswerGrammar(grammar, schemas, notation, bool(answer), is_parallel)


def _with_opener(notation: Notation) -> Notation:
    """The notation with a tag before the calls, by which they are told from an answer that is JSON, too."""
    if notation.opener:
        return notation
    return replace(notation, around=(next(iter(notation.readers)), ""))


def grammar_text(grammar: object) -> str:
    """Return the text of a request's ``grammar``; empty if it has none. Raises SettingsError."""
    text = getattr(grammar, "_grammar", grammar)  # where a LlamaGrammar keeps its GBNF
    if text is None or isinstance(text, str):
        return text or ""
    raise SettingsError("grammar must be GBNF text, or a LlamaGrammar")


def format_grammar(response_format: Mapping[str, Any] | None) -> str:
    """Return the grammar of a ``response_format``; empty if it allows any text. Raises SettingsError."""
    kind = response_format.get("type") if response_format else "text"
    if response_format is None or kind == "text":
        return ""
    if kind == "json_object":
        return schema_grammar(response_format.get("schema", {"type": "object"}))
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
