"""Tool calls: forced by a grammar, or found in the generated text.

Its chat template asks a model for one of several notations (``notations/``); many models also write a JSON
object with ``name`` and ``arguments`` (or ``parameters``), alone or in a list, and some of them in a code
block.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pass_edge.native.errors import SettingsError
from pass_edge.native.lark_rules import LarkRules
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.thinking import may_become, overlap

from .notations import HERMES, Call, IncompleteError, Notation, Schemas, json_calls
from .notations.call import Schema

Json = dict[str, Any]
_FENCE = "```"


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the functions. Raises SettingsError if a tool is not a function."""
    try:
        names = [tool["function"]["name"] for tool in tools]
        if all(isinstance(name, str) and name for name in names):
            return names
    except (KeyError, TypeError):
        pass
    raise SettingsError('a tool must be {"type": "function", "function": {"name": …, "parameters": …}}')


def schemas_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Schema]:
    """Return the JSON schema of each function's arguments, by its name. Raises SettingsError if a tool is not
    a function."""
    return {
        name: tool["function"].get("parameters") or {"type": "object"}
        for name, tool in zip(tool_names(tools), tools, strict=True)
    }


def forced_call_grammar(
    tools: Sequence[Mapping[str, Any]],
    tool_choice: str | Mapping[str, Any] | None,
    notation: Notation,
    vocabulary: Vocabulary,
    *,
    is_parallel: bool = True,
) -> str:
    """Return the grammar of the calls that ``tool_choice`` forces, in the model's own notation; empty if it
    forces none. A tool that is named is called once. Raises SettingsError."""
    if tool_choice in (None, "none", "auto"):
        return ""
    if not tools:
        raise SettingsError("tool_choice needs tools")
    schemas = schemas_of(tools)
    if tool_choice != "required":
        name = _chosen(tool_choice, schemas)
        schemas, is_parallel = {name: schemas[name]}, False
    rules = LarkRules(vocabulary)
    return rules.grammar(_calls(schemas, notation, rules, is_parallel=is_parallel))


def _chosen(tool_choice: Any, names: Collection[str]) -> str:
    try:
        name = str(tool_choice["function"]["name"])
    except (KeyError, TypeError, IndexError):
        raise SettingsError(
            'tool_choice must be none, auto, required, or {"function": {"name": …}}'
        ) from None
    if name not in names:
        raise SettingsError(f"tool_choice names {name!r}, which is not among the tools")
    return name


def free_call_grammar(
    tools: Sequence[Mapping[str, Any]],
    notation: Notation,
    vocabulary: Vocabulary,
    *,
    free_marks: Sequence[str] = (),
    is_parallel: bool = True,
    answer: str = "",
    before_answer: str = "",
) -> str:
    """Return the grammar of a text that may hold calls, whose arguments match the schemas of the tools.

    ``free_marks``: control tokens that the text may hold anywhere. ``answer``: the grammar of a text without
    calls, behind ``before_answer``; empty is any. If the schema of a tool is not supported, it returns "", or
    raises SettingsError if that tool is strict or there is an ``answer``.
    """
    rules = LarkRules(vocabulary)
    if not answer:
        start = _free_text(schemas_of(tools), notation, rules, free_marks, is_parallel=is_parallel)
    else:
        calls = _calls(schemas_of(tools), notation, rules, is_parallel=is_parallel)
        start = f"{calls} | {rules.text(before_answer)} @answer"
    try:
        return rules.grammar(start, **({"answer": answer} if answer else {}))
    except SettingsError:
        if answer or any(tool["function"].get("strict") for tool in tools):
            raise
        return ""


def _free_text(
    schemas: Mapping[str, Schema],
    notation: Notation,
    rules: LarkRules,
    free_marks: Sequence[str],
    *,
    is_parallel: bool,
) -> str:
    """The Lark expression of text in which calls may be opened."""
    opener = notation.opener or (notation.around[0] + notation.form).partition("%NAME")[0]
    calls = rules.rule(_calls(schemas, notation, rules, is_parallel=is_parallel, behind=opener))
    tokens, text = rules.split(opener)
    if not tokens and notation.opener:
        return _repeated(f"{rules.until(opener)} {calls}", rules.any_text(), is_parallel=is_parallel)
    segment = rules.any_text(without=text)  # no call, where the opener's tokens stand before it
    marks = [mark for mark in map(rules.text, free_marks) if mark.startswith("<[")]
    free = f"{segment} ({rules.any_of(marks)} {segment})*" if marks else segment
    if not tokens:  # an object, which is a call at the beginning only
        return f"{rules.blank()} {rules.text(opener)} {calls} | {free}"
    return _repeated(f"{free} {tokens} {rules.text(text)} {calls}", free, is_parallel=is_parallel)


def _repeated(call: str, text: str, *, is_parallel: bool) -> str:
    """The Lark expression of calls, each with the text before it, and the text behind them."""
    return f"({call})* {text}" if is_parallel else f"{text} | {call}"


def _calls(
    schemas: Mapping[str, Schema],
    notation: Notation,
    rules: LarkRules,
    *,
    is_parallel: bool,
    behind: str = "",
) -> str:
    """The Lark expression of calls, ``behind`` a part of the first one that is there already."""
    before, after = notation.around
    inside = behind.removeprefix(before) if len(behind) > len(before) else ""
    calls = [
        rules.any_of([_call(name, schema, notation, rules, part) for name, schema in schemas.items()])
        for part in (inside, "")
    ]
    further = f"({rules.text(notation.between)} {calls[1]})*" if is_parallel else ""
    return f"{rules.text(before[len(behind) :])} {calls[0]} {further} {rules.text(after)}"


def _call(name: str, schema: Schema, notation: Notation, rules: LarkRules, behind: str) -> str:
    before, after = notation.form.split("%ARGUMENTS")
    written = before.replace("%NAME", json.dumps(name, ensure_ascii=False)[1:-1])
    return f"{rules.text(written[len(behind) :])} {notation.arguments(schema, rules)} {rules.text(after)}"


class ToolCallParser:
    """Separates text for the user from tool calls while the text arrives, as OpenAI streams them.

    Calls are read in the model's own notation, and as JSON objects that stand alone. Text that may belong to
    a call is held back. Attributes: ``calls``, in OpenAI's form, as far as they have come.
    """

    def __init__(
        self,
        schemas: Schemas,
        notation: Notation = HERMES,
        *,
        is_parallel: bool = True,
        reads_bare: bool = True,
    ) -> None:
        """``schemas``: those of the tools; without any, all text is for the user. ``is_parallel``: whether
        several calls are read; if not, what follows the first one is dropped. ``reads_bare``: whether JSON
        without a tag may be a call, where no text stands before it."""
        self._schemas = schemas
        bare = {"{": json_calls.read, "[": json_calls.read, _FENCE: json_calls.read_fenced}
        self._bare = tuple(bare) if reads_bare else ()
        self._readers = {**notation.readers, **bare}
        self._notation = notation
        self._tags = (*notation.preambles, *notation.readers)
        self._is_parallel = is_parallel
        self._held = ""
        self._has_text = False  # text has been released since the last call
        self._is_behind_preamble = False  # line feeds there are no text
        self._is_fenced = False  # the calls are in a code block, whose end is no text
        self._opener = ""  # of the call that is being read
        self.calls: list[Json] = []

    def feed(self, text: str) -> list[Json]:
        """Add ``text`` and return the deltas that it makes certain: content, names and arguments of calls."""
        if not self._schemas:
            return [{"content": text}] if text else []
        self._held += text
        return list(self._deltas(is_last=False))

    def finish(self) -> list[Json]:
        """End the text: return the last deltas."""
        return list(self._deltas(is_last=True))

    @property
    def is_complete(self) -> bool:
        """Whether there are calls, each with an object of arguments."""
        return bool(self.calls) and all(_is_object(call["function"]["arguments"]) for call in self.calls)

    def _deltas(self, *, is_last: bool) -> Iterator[Json]:
        while self._held:
            if self._is_behind_preamble:
                self._held = self._held.lstrip("\n")
                self._is_behind_preamble = not self._held
                continue
            opener = self._opener
            if not opener:
                if self.calls and not self._has_text and not self._drop_separators(is_last=is_last):
                    return
                start, opener = self._find_opener(is_last=is_last)
                if start:
                    yield self._release(start)
                if not opener:
                    return
                if opener in self._notation.preambles:
                    self._held, self._is_behind_preamble = self._held[len(opener) :], True
                    continue
            try:
                call = self._readers[opener](self._held, self._schemas)
            except IncompleteError:
                if not is_last:
                    return
                call = None
            if call is None or call.name not in self._schemas:
                yield self._release(len(opener))
                self._opener = ""
                continue
            yield from self._advance(opener, call)
            if call.end is None and not is_last:
                return
            self._held = "" if call.end is None else self._held[call.end :]
            self._opener, self._has_text = "", False

    def _release(self, length: int) -> Json:
        content, self._held = self._held[:length], self._held[length:]
        self._has_text = self._has_text or bool(content.strip())
        return {"content": content}

    def _advance(self, opener: str, call: Call) -> Iterator[Json]:
        """The deltas of the current call, of which more has come."""
        if not self._opener:
            self._opener = opener
            self._is_fenced = self._is_fenced or opener == _FENCE
            function = {"name": call.name, "arguments": ""}
            self.calls.append({"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function})
            yield {"tool_calls": [{"index": len(self.calls) - 1, **self.calls[-1], "function": {**function}}]}
        function = self.calls[-1]["function"]
        part = call.arguments[len(function["arguments"]) :]
        if part:
            function["arguments"] += part
            yield {"tool_calls": [{"index": len(self.calls) - 1, "function": {"arguments": part}}]}

    def _find_opener(self, *, is_last: bool) -> tuple[int, str]:
        """Return where the next call may begin and with what; without a call, "" and how much is text."""
        text = self._held
        if not self._has_text:
            body = text.lstrip()
            blank = len(text) - len(body)
            is_tag = any(body.startswith(tag) for tag in self._tags)
            if (
                not is_last
                and not is_tag
                and any(may_become(body, tag) for tag in (*self._tags, *self._bare))
            ):
                return 0, ""
            bare = next((mark for mark in self._bare if body.startswith(mark)), "")
            if bare and not is_tag:
                return blank, bare
        found = [(start, tag) for tag in self._tags if (start := text.find(tag)) >= 0]
        if found:
            return min(found, key=lambda each: (each[0], -len(each[1])))
        if is_last:
            return len(text), ""
        return len(text) - max(overlap(text, tag) for tag in self._tags), ""

    def _drop_separators(self, *, is_last: bool) -> bool:
        """Drop what stands between two calls, or behind the last one. Return whether the rest is known to be
        something else."""
        if not self._is_parallel:
            self._held = ""
        mark = " "
        while mark:
            text = self._held.lstrip(" \t\r\n,;])}")
            if self._notation.has_lists and "," in self._held[: len(self._held) - len(text)]:
                self._held = self._tags[0] + text  # the next call of a list, as if it had been opened
                return True
            mark = next((mark for mark in self._marks if text.startswith(mark)), "")
            self._is_fenced = self._is_fenced and mark != _FENCE
            self._held = text[len(mark) :]
        return is_last or not any(may_become(self._held, mark) for mark in self._marks)

    @property
    def _marks(self) -> tuple[str, ...]:
        """What may stand behind a call and is no text."""
        return (*self._notation.marks, *([_FENCE] if self._is_fenced else []))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
