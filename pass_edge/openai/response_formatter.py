"""Generated text as the objects and events of OpenAI's Responses API.

A response has *items*: thinking, a message, calls of functions. A stream tells of each item when it begins,
as it grows, and when it is done.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from pass_edge.generation import Generation
from pass_edge.native.vocabulary import Vocabulary

from .formatters import finish_reason
from .message_parser import MessageParser
from .requests import ResponseRequest

Json = dict[str, Any]

_PARTS = {"reasoning": "reasoning_text", "message": "output_text"}
"""The type of the text in an item of each type."""


class ResponseFormatter:
    """Formats the one answer to a response request, whole or as events, with the methods of
    ``TextFormatter``."""

    def __init__(
        self,
        request: ResponseRequest,
        model: str,
        vocabulary: Vocabulary,
        new_parser: Callable[[], MessageParser],
    ) -> None:
        """``new_parser`` makes the parser of the text."""
        self._vocabulary = vocabulary
        self._parser = new_parser()
        self._output = _Output()
        self._numbers = count()
        self._response = _new_response(request, model)

    def first_chunks(self, index: int) -> list[Json]:
        """Return the events before any text."""
        return [self._state("created"), self._state("in_progress")]

    def text_chunks(self, index: int, generation: Generation, text: str, n_sent: int) -> list[Json]:
        """Return the events of new ``text``. Text that may belong to a call waits."""
        return self._events(self._parser.feed(text))

    def last_chunks(self, index: int, generation: Generation, n_sent: int) -> list[Json]:
        """Return the events that end the items."""
        events = self._events(self._parser.finish())
        is_whole = finish_reason(generation) == "stop"
        self._response["status"] = "completed" if is_whole else "incomplete"
        if not is_whole:
            self._response["incomplete_details"] = {"reason": "max_output_tokens"}
        return [*events, *map(self._numbered, self._output.end(self._response["status"]))]

    def usage_chunk(self, usage: Json) -> Json:
        """Return the last event, which has the whole response."""
        self._response |= {"output": self._output.items, "usage": self._usage(usage)}
        return self._state(self._response["status"])

    def result(self, generations: Sequence[Generation], usage: Json) -> Json:
        """Return the response to the finished generation."""
        (generation,) = generations
        self.text_chunks(0, generation, generation.text, 0)
        self.last_chunks(0, generation, 0)
        result: Json = self.usage_chunk(usage)["response"]
        return result

    def _events(self, deltas: Sequence[Json]) -> list[Json]:
        return [self._numbered(event) for delta in deltas for event in self._output.add(delta)]

    def _state(self, name: str) -> Json:
        return self._numbered({"type": f"response.{name}", "response": self._response})

    def _numbered(self, event: Json) -> Json:
        return {**copy.deepcopy(event), "sequence_number": next(self._numbers)}

    def _usage(self, usage: Json) -> Json:
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        thoughts = (part["text"] for item in self._output.items if item["type"] == "reasoning"
                    for part in item["content"])  # fmt: skip
        n_thinking = sum(len(self._vocabulary.tokenize(thought)) for thought in thoughts)
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": usage["prompt_tokens"] - cached,
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": min(n_thinking, usage["completion_tokens"])},
            "total_tokens": usage["total_tokens"],
            "draft": usage["draft"],
        }


class _Output:
    """The items of a response, which grow by deltas. Attributes: ``items``."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self._is_open = False  # the last item grows
        self._blank = ""  # white space that may begin a message; before a call it is dropped

    def add(self, delta: Json) -> Iterator[Json]:
        """Add a delta of a chat's message, and yield the events that tell of it."""
        for call in delta.get("tool_calls", ()):
            yield from self._add_call(call)
        if text := delta.get("reasoning_content"):
            yield from self._add_text("reasoning", text)
        if text := delta.get("content"):
            self._blank += text
            if self._is_growing("message") or not self._blank.isspace():
                text, self._blank = self._blank, ""
                yield from self._add_text("message", text)

    def end(self, status: str) -> Iterator[Json]:
        """End the output; the last item gets ``status``."""
        is_answered = any(item["type"] != "reasoning" for item in self.items)
        if not is_answered and (status == "completed" or not self.items):
            yield from self._add_text("message", self._blank)
        yield from self._finish(status)

    def _is_growing(self, kind: str) -> bool:
        return self._is_open and self.items[-1]["type"] == kind

    def _add_text(self, kind: str, text: str) -> Iterator[Json]:
        if not self._is_growing(kind):
            extra: Json = {"role": "assistant"} if kind == "message" else {"summary": []}
            yield from self._begin(kind, **extra, content=[])
        part = self.items[-1]["content"][0]
        part["text"] += text
        if text:
            yield self._event(f"{part['type']}.delta", content_index=0, delta=text, **_logprobs(part))

    def _add_call(self, call: Json) -> Iterator[Json]:
        function = call["function"]
        if "id" in call:
            self._blank = ""
            yield from self._begin("function_call", call_id=call["id"], name=function["name"], arguments="")
        if part := function.get("arguments"):
            self.items[-1]["arguments"] += part
            yield self._event("function_call_arguments.delta", delta=part)

    def _begin(self, kind: str, **fields: Any) -> Iterator[Json]:
        """Begin an item; the one before is done."""
        yield from self._finish("completed")
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item = {"id": f"{prefix}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", **fields}
        self.items.append(item)
        self._is_open = True
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": item}
        if kind in _PARTS:
            part: Json = {"type": _PARTS[kind], "text": ""}
            if kind == "message":
                part |= {"annotations": [], "logprobs": []}
            yield self._event("content_part.added", content_index=0, part=part)
            item["content"].append(part)

    def _finish(self, status: str) -> Iterator[Json]:
        """End the item that grows, if there is one."""
        if not self._is_open:
            return
        item, self._is_open = self.items[-1], False
        item["status"] = status
        if item["type"] == "function_call":
            yield self._event("function_call_arguments.done", name=item["name"], arguments=item["arguments"])
        else:
            part = item["content"][0]
            yield self._event(f"{part['type']}.done", content_index=0, text=part["text"], **_logprobs(part))
            yield self._event("content_part.done", content_index=0, part=part)
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    def _event(self, kind: str, **fields: Any) -> Json:
        """An event of the last item."""
        index = len(self.items) - 1
        return {"type": f"response.{kind}", "item_id": self.items[-1]["id"], "output_index": index, **fields}


def _logprobs(part: Json) -> Json:
    return {"logprobs": []} if part["type"] == "output_text" else {}


def _new_response(request: ResponseRequest, model: str) -> Json:
    """The object of a response that has just begun; what ``request`` asked for stands in it."""
    text = {"format": {"type": "text"}, **(request.text or {})}
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": dict(request.metadata or {}),
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(request.reasoning or {})},
        "store": False,  # whatever was asked
        "temperature": request.temperature,
        "text": text,
        "tool_choice": request.tool_choice or "auto",
        "tools": [dict(tool) for tool in request.tools or ()],
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
    }
