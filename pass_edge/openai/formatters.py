"""Generations as the result objects of OpenAI's API (and llama-cpp-python's, which are the same).

``TextFormatter`` makes them for one completion request, ``ChatFormatter`` for one chat request. The usage has
a key of its own, ``draft``, for what drafting did.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from pass_edge.generation import Generation
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.sampling.logprobs import Logprob

from .tools import CallReader

Json = dict[str, Any]

# what OpenAI calls the ends that it has a word for; a full context and a cancelled answer are cut off too
_REASONS = {"stop": "stop", "length": "length", "context": "length", "cancelled": "length"}


class TextFormatter:
    """Completions: text behind a prompt."""

    def __init__(self, model: str, vocabulary: Vocabulary, *, before: str = "", echo: bool = False) -> None:
        """``before``: the prompt's text, where offsets start; with ``echo`` it is part of the answer."""
        self._head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._vocabulary = vocabulary
        self._before = before
        self._echo = before if echo else ""
        self._ends: dict[int, int] = {}

    def opening(self, index: int) -> list[Json]:
        """Chunks before the first text of choice ``index``."""
        return [self._chunk(index, self._echo, None)] if self._echo else []

    def piece(self, index: int, generation: Generation, text: str, told: int) -> list[Json]:
        """Chunks for ``text``; the logprobs of the first ``told`` tokens have been told."""
        return [self._chunk(index, text, self._logprobs(index, generation, told))]

    def closing(self, index: int, generation: Generation, told: int) -> list[Json]:
        """Chunks when the choice has ended."""
        return [self._chunk(index, "", self._logprobs(index, generation, told), _reason(generation))]

    def usage_chunk(self, usage: Json) -> Json:
        """The last chunk of all, where usage was asked for."""
        return {**self._head, "object": "text_completion", "choices": [], "usage": usage}

    def whole(self, generations: Sequence[Generation], usage: Json) -> Json:
        """All of it as one object."""
        choices = [
            _text_choice(i, self._echo + each.text, self._logprobs(i, each, 0), _reason(each))
            for i, each in enumerate(generations)
        ]
        return {**self._head, "object": "text_completion", "choices": choices, "usage": usage}

    def _chunk(self, index: int, text: str, logprobs: Json | None, reason: str | None = None) -> Json:
        choice = _text_choice(index, text, logprobs, reason)
        return {**self._head, "object": "text_completion", "choices": [choice]}

    def _logprobs(self, index: int, generation: Generation, told: int) -> Json | None:
        new = generation.logprobs[told:]
        if not new:
            return None
        texts = [_text(self._vocabulary, each.token) for each in new]
        *starts, end = accumulate(map(len, texts), initial=self._ends.get(index, len(self._before)))
        self._ends[index] = end
        return {
            "tokens": texts,
            "text_offset": starts,
            "token_logprobs": [each.logprob for each in new],
            "top_logprobs": [
                {
                    _text(self._vocabulary, token): value
                    for token, value in (*each.top, (each.token, each.logprob))
                }
                for each in new
            ],
        }


class ChatFormatter:
    """Chat completions: the assistant's message, or its tool calls."""

    def __init__(self, model: str, vocabulary: Vocabulary, tools: Sequence[str] = ()) -> None:
        """``tools``: the names of those that may be called."""
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._vocabulary = vocabulary
        self._tools = tools
        self._readers: dict[int, CallReader] = {}

    def opening(self, index: int) -> list[Json]:
        """As ``TextFormatter.opening``."""
        self._readers[index] = CallReader(self._tools)
        return [self._chunk(index, {"role": "assistant", "content": ""}, None)]

    def piece(self, index: int, generation: Generation, text: str, told: int) -> list[Json]:
        """As ``TextFormatter.piece``; what may be a tool call is kept for the closing."""
        shown, logprobs = self._readers[index].feed(text), self._logprobs(generation, told)
        return [self._chunk(index, {"content": shown}, logprobs)] if shown or logprobs else []

    def closing(self, index: int, generation: Generation, told: int) -> list[Json]:
        """As ``TextFormatter.closing``, with each tool call whole."""
        text, calls = self._readers.pop(index).finish()
        chunks = [self._chunk(index, {"content": text}, None)] if text else []
        chunks += [
            self._chunk(index, {"tool_calls": [{"index": i, **call}]}, None) for i, call in enumerate(calls)
        ]
        reason = "tool_calls" if calls else _reason(generation)
        return [*chunks, self._chunk(index, {}, self._logprobs(generation, told), reason)]

    def usage_chunk(self, usage: Json) -> Json:
        """As ``TextFormatter.usage_chunk``."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def whole(self, generations: Sequence[Generation], usage: Json) -> Json:
        """As ``TextFormatter.whole``."""
        choices = [self._choice(i, generation) for i, generation in enumerate(generations)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _choice(self, index: int, generation: Generation) -> Json:
        reader = CallReader(self._tools)
        text = reader.feed(generation.text)
        rest, calls = reader.finish()
        message: Json = {"role": "assistant", "content": text + rest}
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(generation, 0),
            "finish_reason": "tool_calls" if calls else _reason(generation),
        }

    def _chunk(self, index: int, delta: Json, logprobs: Json | None, reason: str | None = None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, generation: Generation, told: int) -> Json | None:
        content = [self._logprob(each) for each in generation.logprobs[told:]]
        return {"content": content, "refusal": None} if content else None

    def _logprob(self, told: Logprob) -> Json:
        top = [self._token(token, value) for token, value in told.top]
        return {**self._token(told.token, told.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> Json:
        raw = self._vocabulary.piece(token, special=True)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


def usage_of(generations: Sequence[Generation], n: int) -> Json:
    """What ``generations`` cost, the prompt of each ``n`` of them counted once."""
    stats = [generation.stats for generation in generations]
    prompt = sum(each.prompt_tokens for each in stats[::n])
    completion = sum(len(generation.ids) for generation in generations)
    passes, seconds = sum(each.passes for each in stats), sum(each.seconds for each in stats)
    tokens = sum(each.tokens for each in stats)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(each.reused_tokens for each in stats[::n])},
        "draft": {
            "passes": passes,
            "drafted_tokens": sum(sum(each.drafted) for each in stats),
            "accepted_tokens": sum(sum(each.accepted) for each in stats),
            "tokens_per_pass": tokens / passes if passes else 0.0,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
        },
    }


def _text_choice(index: int, text: str, logprobs: Json | None, reason: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}


def _reason(generation: Generation) -> str:
    return _REASONS[generation.finish_reason or "length"]


def _text(vocabulary: Vocabulary, token: int) -> str:
    return vocabulary.piece(token).decode("utf-8", "replace")
