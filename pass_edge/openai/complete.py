"""Answer a request with an engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pass_edge.engine import Engine
from pass_edge.generation import Generation
from pass_edge.native.chat_template import has_tools, render
from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.sampling.sampler import Sampling
from pass_edge.thinking import Thinking

from .answer_grammar import answer_grammar
from .answers import Answer, Formatter
from .formatters import ChatFormatter, Json, TextFormatter
from .llama_cpp_formatter import LlamaCppFormatter
from .logit_bias import token_biases
from .message_parser import MessageParser
from .messages import plain_messages
from .notations import notation_of
from .output_form import form_grammar
from .requests import RANDOM_SEED, ChatCompletionRequest, CompletionRequest, LlamaCppRequest, Prompt, Request

_MAX_CHOICES = 128
_SAMPLING_PARAMETERS = {each.name for each in fields(Sampling)} & {each.name for each in fields(Request)}


def complete(engine: Engine, request: CompletionRequest | ChatCompletionRequest) -> Json | Iterator[Json]:
    """Answer ``request``: return OpenAI's result object or, with ``request.stream``, an iterator over chunks.

    Raises SettingsError (a parameter is wrong or not supported), ContextFullError (the prompt does not fit),
    ModelError (the model's chat template refuses the messages).
    """
    answer = start(engine, request)
    return iter(answer) if request.stream else answer.result()


async def acomplete(
    engine: Engine, request: CompletionRequest | ChatCompletionRequest
) -> Json | AsyncIterator[Json]:
    """Await ``complete``; the event loop stays free, and chunks are for ``async for``."""
    answer = await asyncio.to_thread(start, engine, request)
    return aiter(answer) if request.stream else await answer.aresult()


def start(engine: Engine, request: CompletionRequest | ChatCompletionRequest) -> Answer:
    """Check ``request`` and return its answer, not yet generated. Raises as ``complete`` does."""
    _refuse_unsupported(request)
    if isinstance(request, ChatCompletionRequest):
        return _start_chat(engine, request)
    return _start_completion(engine, request)


def prompt_text(engine: Engine, request: ChatCompletionRequest) -> str:
    """Return the prompt that the model's chat template makes of a request. Raises as ``complete`` does."""
    engine.check()
    tools = () if request.tool_choice == "none" else request.tools
    messages = plain_messages(request.messages)
    return render(engine.model, messages, tools, request.tool_choice, _template_arguments(request))


def _start_completion(engine: Engine, request: CompletionRequest) -> Answer:
    prompts = _prompts(request.prompt)
    if request.echo and request.logprobs is not None:
        raise SettingsError("echo works without logprobs only")
    ids = [_token_ids(engine, prompt) for prompt in prompts]
    generations = _generations(engine, request, ids, grammar=form_grammar(request), logprobs=request.logprobs)
    return _answer(request, generations, _completion_formatter(engine, request, prompts, ids))


def _completion_formatter(
    engine: Engine, request: CompletionRequest, prompts: Sequence[Prompt], ids: Sequence[Prompt]
) -> TextFormatter | LlamaCppFormatter:
    model, vocabulary = _model_name(request, engine), engine.model.vocabulary
    if isinstance(request, LlamaCppRequest):
        read = [_prompt_text(each, vocabulary) for each in ids]
        return LlamaCppFormatter(request, model, vocabulary, read, request.n)
    texts = [_prompt_text(each, vocabulary) for each in prompts]
    return TextFormatter(model, vocabulary, prompts=texts, n=request.n, echo=request.echo)


def _start_chat(engine: Engine, request: ChatCompletionRequest) -> Answer:
    tools = list(request.tools or ()) if request.tool_choice != "none" else []
    vocabulary = engine.model.vocabulary
    if tools and request.tool_choice in (None, "auto") and not has_tools(engine.model):
        raise SettingsError(
            "this model's chat template has no tools, so it cannot choose one; "
            'force a call with tool_choice ("required", or a tool)'
        )
    prompt = engine.tokenize(prompt_text(engine, request))
    thinking = engine.thinking_after(prompt)
    notation = notation_of(engine.model.chat_template() or "")
    answer = answer_grammar(request, tools, notation, thinking, vocabulary)
    generations = _generations(
        engine,
        request,
        [prompt],
        grammar=answer.grammar,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        visible=vocabulary.control_tokens_in("".join(answer.notation.texts)) if tools else (),
        thinking=thinking,
        thinking_budget=request.thinking_budget_tokens,
    )
    formatter = ChatFormatter(
        _model_name(request, engine), vocabulary, lambda: MessageParser(thinking, answer.new_parser())
    )
    return _answer(request, generations, formatter)


def _answer(request: Request, generations: Sequence[Generation], formatter: Formatter) -> Answer:
    return Answer(
        generations,
        formatter,
        n=request.n,
        include_usage=bool((request.stream_options or {}).get("include_usage")),
        include_timings=request.timings_per_token,
    )


def _template_arguments(request: ChatCompletionRequest) -> dict[str, Any]:
    """What the chat template is told beside the messages."""
    arguments = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        arguments["reasoning_effort"] = request.reasoning_effort
    return arguments


def _generations(
    engine: Engine,
    request: Request,
    prompts: Sequence[Sequence[int]],
    *,
    grammar: str,
    logprobs: int | None,
    visible: Collection[int] = (),
    thinking: Thinking | None = None,
    thinking_budget: int | None = None,
) -> list[Generation]:
    """``request.n`` generations for each prompt, one prompt after the other."""
    if not 1 <= request.n <= _MAX_CHOICES:
        raise SettingsError(f"n is {request.n}; it must be from 1 to {_MAX_CHOICES}")
    biases = _biases(request, engine.model.vocabulary, grammar)
    return [
        engine.stream(
            prompt,
            sampling=_sampling(request, biases, grammar, choice),
            max_tokens=request.max_tokens if request.max_tokens and request.max_tokens > 0 else None,
            stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
            stop_tokens=request.stop_token_ids or (),
            logprobs=logprobs,
            visible=visible,
            thinking=thinking,
            thinking_budget=thinking_budget,
        )
        for prompt in prompts
        for choice in range(request.n)
    ]


def _biases(request: Request, vocabulary: Vocabulary, grammar: str) -> dict[int, float]:
    biases = token_biases(request.logit_bias, vocabulary)
    if request.ignore_eos and grammar:
        raise SettingsError("a text in a given form must be able to end; leave ignore_eos out")
    return biases | dict.fromkeys(vocabulary.end_tokens if request.ignore_eos else (), -math.inf)


def _sampling(request: Request, biases: Mapping[int, float], grammar: str, choice: int) -> Sampling:
    parameters = {name: getattr(request, name) for name in _SAMPLING_PARAMETERS} | {
        "top_k": max(0, request.top_k),  # llama.cpp also takes -1 for off
        "logit_bias": biases,
        "seed": None if request.seed in (None, RANDOM_SEED) else request.seed + choice,
        "grammar": grammar,
    }
    return Sampling(**parameters)


def _refuse_unsupported(request: Request) -> None:
    for each in fields(request):
        if "unsupported" in each.metadata and getattr(request, each.name) != each.default:
            hint = "; use tools and tool_choice" if each.name.startswith("function") else ""
            raise SettingsError(f"{each.name} is not supported{hint}")


def _prompts(prompt: Any) -> list[Prompt]:
    """The prompts of a request: ``prompt`` may be one, or a list. A list with a token id is one prompt."""
    if isinstance(prompt, str) or not prompt:
        return [prompt]
    if not any(isinstance(item, int) for item in prompt):
        return list(prompt)
    if not all(isinstance(item, int | str) for item in prompt):
        raise SettingsError("a list holds either prompts, or the token ids and texts of one prompt; not both")
    return [prompt]


def _token_ids(engine: Engine, prompt: Prompt) -> Sequence[int]:
    """The token ids of a prompt. A BOS token comes before text at its beginning, if the model wants one."""
    bos, tokenize = engine.model.vocabulary.bos, engine.model.vocabulary.tokenize
    if isinstance(prompt, str):
        return engine.tokenize(prompt) or [bos] * (bos >= 0)
    ids: list[int] = []
    for i, part in enumerate(prompt):
        if isinstance(part, str):
            ids += tokenize(part, parse_special=True).tolist() if i else engine.tokenize(part)
        else:
            ids.append(part)
    return ids


def _prompt_text(prompt: Prompt, vocabulary: Vocabulary) -> str:
    """The text of a prompt, which stands before its answer."""
    if isinstance(prompt, str):
        return prompt
    parts = (
        part.encode("utf-8", "surrogatepass")
        if isinstance(part, str)
        else vocabulary.piece(part, special=True)
        for part in prompt
    )
    return b"".join(parts).decode("utf-8", "replace")


def _model_name(request: Request, engine: Engine) -> str:
    return request.model or str(engine.model.path)
