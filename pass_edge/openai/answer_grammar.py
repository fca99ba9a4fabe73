"""Which grammar constrains an answer: of a format, of tool calls, behind thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.thinking import Thinking, behind_thinking

from .notations import Notation, Schemas
from .output_form import form_grammar
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

    def new_parser(self, *, is_alone: bool = True) -> ToolCallParser:
        """Return a parser that reads the calls of a text. ``is_alone``: no text for the user stands before
        it."""
        return ToolCallParser(
            self.schemas,
            self.notation,
            is_parallel=self.is_parallel,
            reads_bare=is_alone and not self.has_format,
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
    # small models that must call do so until their tokens are used up, so several calls must be asked for
    forces_several = request.parallel_tool_calls is True
    forced = forced_call_grammar(tools, request.tool_choice, notation, vocabulary, is_parallel=forces_several)
    form = form_grammar(request)
    if forced and request.grammar:
        raise SettingsError("grammar excludes a forced tool; give one")
    # a call that is forced is no answer that a format is for
    answer = "" if forced else form
    if answer and tools:
        notation = _with_opener(notation)
    if tools and not forced:
        grammar = free_call_grammar(
            tools,
            notation,
            vocabulary,
            free_marks=thinking.texts if thinking and not answer else (),
            is_parallel=is_parallel,
            answer=answer,
            before_answer=thinking.answer if thinking and answer else "",
        )
    else:
        grammar = forced or answer
    if thinking and (forced or answer):
        # beside tools, the grammar has what opens an answer already: it does not stand before calls
        opening = "" if tools else thinking.answer
        grammar = behind_thinking(grammar, thinking, vocabulary, before=opening)
    schemas = schemas_of(tools)
    return AnswerGrammar(grammar, schemas, notation, bool(answer), is_parallel)


def _with_opener(notation: Notation) -> Notation:
    """The notation with a tag before the calls, by which they are told from an answer that is JSON, too."""
    if notation.opener:
        return notation
    return replace(notation, around=(next(iter(notation.readers)), ""))
