"""Generated text as the result objects and chunks of OpenAI's API, which are llama-cpp-python's too.

``TextFormatter`` formats one completion request, ``ChatFormatter`` one chat request. The usage object has one
more key, ``draft``: passes, drafted and accepted tokens, tokens per pass and per second.
"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from pass_edge.generation import Generation
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.sampling.logprobs import Logprob

from .message_parser import MessageParser

Json = dict[str, Any]

# OpenAI has no words of its own for a full context and for a cancelled answer: both are cut off
_FINISH_REASONS = {"stop": "stop", "length": "length", "context": "length", "cancelled": "length"}


class TextFormatter:
    """Formats completions: text that follows a prompt."""

    def __init__(
        self, model: str, vocabulary: Vocabulary, *, prompts: Sequence[str], n: int = 1, echo: bool = False
    ) -> None:
        """``prompts``: their texts; each has ``n`` choices. Text offsets count from the beginning of the
        prompt; with ``echo``, the answer starts with it."""
        self._header = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._vocabulary = vocabulary
        self._prompts = [prompt for prompt in prompts for _ in range(n)]
        self._echo = echo
        self._echoed: set[int] = set()
        self._offsets: dict[int, TokenOffsets] = {}

    def first_chunks(self, index: int) -> list[Json]:
        """Return the chunks before the text of choice ``index``."""
        return []

    def text_chunks(self, index: int, generation: Generation, text: str, n_sent: int) -> list[Json]:
        """Return the chunks for new ``text``; the first ``n_sent`` tokens' logprobs are sent already."""
        chunk = self._chunk(index, text, self._logprobs(index, generation, n_sent))
        return [*self._echo_chunks(index, generation), chunk]

    def last_chunks(self, index: int, generation: Generation, n_sent: int) -> list[Json]:
        """Return the chunks after the text of choice ``index``: the last has the finish reason."""
        chunk = self._chunk(index, "", self._logprobs(index, generation, n_sent), finish_reason(generation))
        return [*self._echo_chunks(index, generation), chunk]

    def usage_chunk(self, usage: Json) -> Json:
        """Return the chunk that ends a stream with its usage."""
        return {**self._header, "object": "text_completion", "choices": [], "usage": usage}

    def result(self, generations: Sequence[Generation], usage: Json) -> Json:
        """Return one object with the finished ``generations``."""
        choices = [
            _text_choice(
                i,
                self._prompts[i] * self._echo + each.text,
                _joined(self._prompt_logprobs(i, each), self._logprobs(i, each, 0)),
                finish_reason(each),
            )
            for i, each in enumerate(generations)
        ]
        return {**self._header, "object": "text_completion", "choices": choices, "usage": usage}

    def _echo_chunks(self, index: int, generation: Generation) -> list[Json]:
        if not self._echo or index in self._echoed:
            return []
        self._echoed.add(index)
        return [self._chunk(index, self._prompts[index], self._prompt_logprobs(index, generation))]

    def _prompt_logprobs(self, index: int, generation: Generation) -> Json | None:
        scored = generation.prompt_logprobs
        if not (self._echo and scored):
            return None
        tokens = generation.conversation[: len(scored) + 1]
        offsets = TokenOffsets(self._vocabulary, 0, special=True)
        starts = [offsets.next(token) for token in tokens]
        added = offsets.length - len(self._prompts[index])  # BOS, and a space, that the tokenizer put before
        return {
            "tokens": [token_label(self._vocabulary, token) for token in tokens],
            "text_offset": [max(0, start - added) for start in starts],
            "token_logprobs": [None, *(each.logprob for each in scored)],
            "top_logprobs": [None, *map(self._top_logprobs, scored)],
        }

    def _chunk(self, index: int, text: str, logprobs: Json | None, reason: str | None = None) -> Json:
        choice = _text_choice(index, text, logprobs, reason)
        return {**self._header, "object": "text_completion", "choices": [choice]}

    def _logprobs(self, index: int, generation: Generation, n_sent: int) -> Json | None:
        new = generation.logprobs[n_sent:]
        if not new:
            return None
        offsets = self._offsets.setdefault(index, TokenOffsets(self._vocabulary, len(self._prompts[index])))
        return {
            "tokens": [token_label(self._vocabulary, each.token) for each in new],
            "text_offset": [offsets.next(each.token) for each in new],
            "token_logprobs": [each.logprob for each in new],
            "top_logprobs": [self._top_logprobs(each) for each in new],
        }

    def _top_logprobs(self, chosen: Logprob) -> dict[str, float]:
        """The log-probabilities by the labels of their tokens, or by id where two labels are the same."""
        by_label = {token_label(self._vocabulary, chosen.token): chosen.token}
        for token, _ in chosen.top:
            label = token_label(self._vocabulary, token)
            by_label.setdefault(label if by_label.get(label, token) == token else f"token_id:{token}", token)
        logprobs = dict((*chosen.top, (chosen.token, chosen.logprob)))
        labels = {token: label for label, token in by_label.items()}
        return {labels[token]: logprob for token, logprob in logprobs.items()}


class TokenOffsets:
    """Where the tokens of a text begin in it, in characters. A token within a character begins where the
    character does.

    Attributes: ``length``: where the text ends so far."""

    def __init__(self, vocabulary: Vocabulary, start: int, *, special: bool = False) -> None:
        """``start``: where the text begins; ``special``: control tokens are part of it."""
        self._vocabulary = vocabulary
        self._special = special
        self.length = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, token: int) -> int:
        """Return where ``token`` begins, which comes after those before it."""
        raw = self._vocabulary.piece(token, special=self._special)
        unfinished, _ = self._decoder.getstate()
        is_broken_off = bool(unfinished and raw) and raw[0] & 0xC0 != 0x80
        start = self.length + is_broken_off  # what was unfinished becomes U+FFFD
        self.length += len(self._decoder.decode(raw))
        return start


class ChatFormatter:
    """Formats chat completions: the assistant's message, or its tool calls."""

    def __init__(self, model: str, vocabulary: Vocabulary, new_parser: Callable[[], MessageParser]) -> None:
        """``new_parser`` makes the parser of one choice's text."""
        self._header = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._vocabulary = vocabulary
        self._new_parser = new_parser
        self._parsers: dict[int, MessageParser] = {}

    def first_chunks(self, index: int) -> list[Json]:
        """As ``TextFormatter.first_chunks``."""
        self._parsers[index] = self._new_parser()
        return [self._chunk(index, {"role": "assistant", "content": ""}, None)]

    def text_chunks(self, index: int, generation: Generation, text: str, n_sent: int) -> list[Json]:
        """As ``TextFormatter.text_chunks``. Text that may belong to a tool call waits."""
        return self._chunks(index, self._parsers[index].feed(text), self._logprobs(generation, n_sent))

    def last_chunks(self, index: int, generation: Generation, n_sent: int) -> list[Json]:
        """As ``TextFormatter.last_chunks``."""
        parser = self._parsers.pop(index)
        chunks = self._chunks(index, parser.finish(), None)
        reason = "tool_calls" if parser.is_complete else finish_reason(generation)
        return [*chunks, self._chunk(index, {}, self._logprobs(generation, n_sent), reason)]

    def _chunks(self, index: int, deltas: Sequence[Json], logprobs: Json | None) -> list[Json]:
        """A chunk for each delta, the first with the logprobs; these make a chunk without deltas, too."""
        if logprobs and not deltas:
            deltas = [{"content": ""}]
        return [self._chunk(index, delta, None if i else logprobs) for i, delta in enumerate(deltas)]

    def usage_chunk(self, usage: Json) -> Json:
        """As ``TextFormatter.usage_chunk``."""
        return {**self._header, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def result(self, generations: Sequence[Generation], usage: Json) -> Json:
        """As ``TextFormatter.result``."""
        choices = [self._choice(i, generation) for i, generation in enumerate(generations)]
        return {**self._header, "object": "chat.completion", "choices": choices, "usage": usage}

    def _choice(self, index: int, generation: Generation) -> Json:
        parser = self._new_parser()
        deltas = [*parser.feed(generation.text), *parser.finish()]
        content = "".join(delta.get("content", "") for delta in deltas)
        message: Json = {"role": "assistant", "content": content}
        reasoning = "".join(delta.get("reasoning_content", "") for delta in deltas)
        if reasoning:
            message["reasoning_content"] = reasoning
        if parser.calls:
            message |= {"content": content or None, "tool_calls": parser.calls}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(generation, 0),
            "finish_reason": "tool_calls" if parser.is_complete else finish_reason(generation),
        }

    def _chunk(self, index: int, delta: Json, logprobs: Json | None, reason: str | None = None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._header, "object": "chat.completion.chunk", "choices": [choice]}

    def _logprobs(self, generation: Generation, n_sent: int) -> Json | None:
        content = [self._logprob(each) for each in generation.logprobs[n_sent:]]
        return {"content": content, "refusal": None} if content else None

    def _logprob(self, logprob: Logprob) -> Json:
        top = [token_logprob(self._vocabulary, token, value) for token, value in logprob.top]
        return {**token_logprob(self._vocabulary, logprob.token, logprob.logprob), "top_logprobs": top}


def timings_of(generations: Sequence[Generation]) -> Json:
    """Return llama.cpp's timings: tokens, milliseconds and speed of prompts and of what was generated."""
    stats = [generation.stats for generation in generations]
    cached = sum(each.reused_tokens for each in stats)
    prompt = sum(each.prompt_tokens for each in stats) - cached
    generated = sum(len(generation.ids) for generation in generations)
    return {
        "cache_n": cached,
        **_speed("prompt", prompt, sum(each.prompt_seconds for each in stats)),
        **_speed("predicted", generated, sum(each.seconds for each in stats)),
        "draft_n": sum(sum(each.drafted) for each in stats),
        "draft_n_accepted": sum(sum(each.accepted) for each in stats),
    }


def _speed(name: str, tokens: int, seconds: float) -> Json:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_token_ms": seconds * 1000 / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / seconds if seconds else 0.0,
    }


def usage_of(generations: Sequence[Generation], n: int) -> Json:
    """Return OpenAI's usage object. A prompt counts once for its ``n`` generations."""
    stats = [generation.stats for generation in generations]
    prompt_tokens = sum(each.prompt_tokens for each in stats[::n])
    completion_tokens = sum(len(generation.ids) for generation in generations)
    passes, seconds = sum(each.passes for each in stats), sum(each.seconds for each in stats)
    tokens = sum(each.tokens for each in stats)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(each.reused_tokens for each in stats[::n])},
        "draft": {
            "passes": passes,
            "drafted_tokens": sum(sum(each.drafted) for each in stats),
            "accepted_tokens": sum(sum(each.accepted) for each in stats),
            "tokens_per_pass": tokens / passes if passes else 0.0,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
        },
    }


def _joined(first: Json | None, second: Json | None) -> Json | None:
    """The logprobs of a text's two parts as one."""
    if not (first and second):
        return first or second
    return {name: first[name] + second[name] for name in first}


def _text_choice(index: int, text: str, logprobs: Json | None, reason: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}


def finish_reason(generation: Generation) -> str:
    """Return OpenAI's finish reason of a generation that has ended."""
    return _FINISH_REASONS[generation.finish_reason or "length"]


def token_logprob(vocabulary: Vocabulary, token: int, logprob: float) -> Json:
    """Return a token's text and bytes with its log-probability, as chats have them."""
    raw = vocabulary.piece(token, special=True)
    return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


def token_label(vocabulary: Vocabulary, token: int) -> str:
    """Return a token's text or, as OpenAI does, its bytes if they are no text: ``bytes:\\xe2\\x82``."""
    raw = vocabulary.piece(token, special=True)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
