"""Tool calls: forced by a grammar, or found in the generated text.

Its chat template asks a model for one of several notations (``notations/``); many write a JSON object with
``name`` and ``arguments`` (or ``parameters``), alone or in a list, as well.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pass_edge.native.constraint import lark_grammar, lark_pattern, lark_text
from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Vocabulary

from .notations import HERMES, Call, IncompleteError, Notation, json_calls
from .notations.call import may_become

Json = dict[str, Any]


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the functions. Raises SettingsError if a tool is not a function."""
    try:
        names = [tool["function"]["name"] for tool in tools]
        if all(isinstance(name, str) and name for name in names):
            return names
    except (KeyError, TypeError):
        pass
    raise SettingsError('a tool must be {"type": "function", "function": {"name": …, "parameters": …}}')


def forced_call_grammar(
    tools: Sequence[Mapping[str, Any]],
    tool_choice: str | Mapping[str, Any] | None,
    notation: Notation,
    vocabulary: Vocabulary,
) -> str:
    """Return the grammar of the call that ``tool_choice`` forces, in the model's own notation; empty if it
    forces none. Raises SettingsError."""
    if tool_choice in (None, "none", "auto"):
        return ""
    if not tools:
        raise SettingsError("tool_choice needs tools")
    if tool_choice == "required":
        return _call_grammar(tools, None, notation, vocabulary)
    try:
        name = str(tool_choice["function"]["name"])  # type: ignore[index]
    except (KeyError, TypeError, IndexError):
        raise SettingsError(
            'tool_choice must be none, auto, required, or {"function": {"name": …}}'
        ) from None
    return _call_grammar(tools, name, notation, vocabulary)


def _call_grammar(
    tools: Sequence[Mapping[str, Any]], chosen: str | None, notation: Notation, vocabulary: Vocabulary
) -> str:
    """Return the grammar of a call of the tool named ``chosen``, or of any tool."""
    names = tool_names(tools)
    if chosen is not None and chosen not in names:
        raise SettingsError(f"tool_choice names {chosen!r}, which is not among the tools")
    calls, schemas = _calls([tool for name, tool in zip(names, tools, strict=True) if chosen in (None, name)])
    before, after = notation.form.split("%ARGUMENTS")
    return lark_grammar(f"start: {_alternatives(calls, before, after, vocabulary)}", schemas)


def free_call_grammar(
    tools: Sequence[Mapping[str, Any]],
    notation: Notation,
    vocabulary: Vocabulary,
    *,
    free_marks: Sequence[str] = (),
    is_parallel: bool = True,
) -> str:
    """Return the grammar of a text that may hold calls, whose arguments match the schemas of the tools; empty
    if calls have no tag of their own in this notation. ``free_marks``: control tokens that the text may hold
    anywhere. Raises SettingsError if a tool that is strict has a schema that is not supported."""
    openers = (each for each in (*notation.preambles, *notation.readers) if notation.form.startswith(each))
    opener = next(openers, "")
    if not opener or "<|channel|>" in opener:  # which opens all of gpt-oss's messages
        return ""
    names, schemas = _calls(tools)
    before, after = notation.form[len(opener) :].split("%ARGUMENTS")
    tag = lark_text(vocabulary, opener)
    marks = [mark for mark in (lark_text(vocabulary, each) for each in free_marks) if mark.startswith("<[")]
    text = f"TEXT (({' | '.join(marks)}) TEXT)*" if marks else "TEXT"
    opening = f"text {tag}" if tag.startswith("<[") else "opening"
    rules = [
        "start: call* text" if is_parallel else "start: text | call",
        f"text: {text}",
        f"call: {opening} ({_alternatives(names, before, after, vocabulary)})",
        r"TEXT: /(.|\n)*/",
        f"opening[lazy]: /(.|\\n)*{lark_pattern(opener)}/" if opening == "opening" else "",
    ]
    try:
        return lark_grammar("\n".join(rules), schemas)
    except SettingsError:
        if any(tool["function"].get("strict") for tool in tools):
            raise
        return ""


def _calls(tools: Sequence[Mapping[str, Any]]) -> tuple[list[str], Json]:
    """The names of the tools, and the schemas of their arguments by the names of their rules."""
    schemas = {
        f"arguments_{number}": tool["function"].get("parameters") or {"type": "object"}
        for number, tool in enumerate(tools)
    }
    return tool_names(tools), schemas


def _alternatives(names: Sequence[str], before: str, after: str, vocabulary: Vocabulary) -> str:
    closing = lark_text(vocabulary, after) if after else ""
    openings = (before.replace("%NAME", json.dumps(name, ensure_ascii=False)[1:-1]) for name in names)
    return " | ".join(
        f"{lark_text(vocabulary, opening)} @arguments_{number} {closing}"
        for number, opening in enumerate(openings)
    )


class ToolCallParser:
    """Separates text for the user from tool calls while the text arrives, as OpenAI streams them.

    Calls are read in the model's own notation, and as JSON objects that stand alone. Text that may belong to
    a call is held back. Attributes: ``calls``, in OpenAI's form, as far as they have come.
    """

    def __init__(
        self,
        names: Sequence[str],
        notation: Notation = HERMES,
        *,
        is_parallel: bool = True,
        has_text: bool = False,
    ) -> None:
        """``names``: the tools; without any, all text is for the user. ``is_parallel``: whether several calls
        are read; if not, what follows the first one is dropped. ``has_text``: text for the user comes before,
        so that JSON objects do not stand alone."""
        self._names = names
        self._readers = {**notation.readers, "{": json_calls.read, "[": json_calls.read}
        self._notation = notation
        self._tags = (*notation.preambles, *notation.readers)
        self._is_parallel = is_parallel
        self._held = ""
        self._has_text = has_text  # text has been released since the last call
        self._opener = ""  # of the call that is being read
        self.calls: list[Json] = []

    def feed(self, text: str) -> list[Json]:
        """Add ``text`` and return the deltas that it makes certain: content, names and arguments of calls."""
        if not self._names:
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
                    self._held = self._held[len(opener) :]
                    continue
            try:
                call = self._readers[opener](self._held)
            except IncompleteError:
                if not is_last:
                    return
                call = None
            if call is None or call.name not in self._names:
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
            if not is_last and not is_tag and any(may_become(body, tag) for tag in self._tags):
                return 0, ""
            if body[:1] in ("{", "[") and not is_tag:
                return blank, body[0]
        found = [(start, tag) for tag in self._tags if (start := text.find(tag)) >= 0]
        if found:
            return min(found, key=lambda each: (each[0], -len(each[1])))
        if is_last:
            return len(text), ""
        return len(text) - max(_overlap(text, tag) for tag in self._tags), ""

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
            mark = next((mark for mark in self._notation.marks if text.startswith(mark)), "")
            self._held = text[len(mark) :]
        return is_last or not any(may_become(self._held, mark) for mark in self._notation.marks)


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest proper prefix of ``tag`` that ends ``text``."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
