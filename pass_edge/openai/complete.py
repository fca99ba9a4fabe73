"""Answer a request with an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any

from pass_edge.engine import Engine
from pass_edge.generation import Generation
from pass_edge.native.chat_template import has_tools
from pass_edge.native.errors import SettingsError
from pass_edge.native.model_path import readable
from pass_edge.sampling.sampler import Sampling
from pass_edge.thinking import Thinking

from .answer_grammar import answer_grammar, grammar_text
from .answers import Answer
from .formatters import ChatFormatter, Json, TextFormatter
from .message_parser import MessageParser
from .messages import plain_messages
from .notations import notation_of
from .requests import RANDOM_SEED, ChatCompletionRequest, CompletionRequest, Prompt, Request

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


def _start_completion(engine: Engine, request: CompletionRequest) -> Answer:
    prompts = _prompts(request.prompt)
    only = prompts[0] if len(prompts) == 1 and isinstance(prompts[0], str) else ""
    if request.echo and (not only or request.logprobs is not None):
        raise SettingsError("echo works for one prompt that is text, and without logprobs")
    formatter = TextFormatter(
        _model_name(request, engine), engine.model.vocabulary, prompt=only, echo=request.echo
    )
    generations = _generations(
        engine,
        request,
        [_token_ids(engine, prompt) for prompt in prompts],
        grammar=grammar_text(request.grammar),
        logprobs=request.logprobs,
    )
    return Answer(generations, formatter, n=request.n, include_usage=_includes_usage(request))


def _start_chat(engine: Engine, request: ChatCompletionRequest) -> Answer:
    tools = list(request.tools or ()) if request.tool_choice != "none" else []
    vocabulary = engine.model.vocabulary
    if tools and request.tool_choice in (None, "auto") and not has_tools(engine.model):
        raise SettingsError(
            "this model's chat template has no tools, so it cannot choose one; "
            'force a call with tool_choice ("required", or a tool)'
        )
    prompt = engine.render(
        plain_messages(request.messages),
        tools=tools,
        tool_choice=request.tool_choice,
        template_arguments=_template_arguments(request),
    )
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
        stop=engine.chat_stop,
        thinking=thinking,
        thinking_budget=request.thinking_budget_tokens,
    )
    formatter = ChatFormatter(
        _model_name(request, engine), vocabulary, lambda: MessageParser(thinking, answer.new_parser())
    )
    return Answer(generations, formatter, n=request.n, include_usage=_includes_usage(request))


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
    stop: Sequence[str] = (),
    thinking: Thinking | None = None,
    thinking_budget: int | None = None,
) -> list[Generation]:
    """``request.n`` generations for each prompt, one prompt after the other; ``stop``: further strings to
    stop at."""
    if not 1 <= request.n <= _MAX_CHOICES:
        raise SettingsError(f"n is {request.n}; it must be from 1 to {_MAX_CHOICES}")
    return [
        engine.stream(
            prompt,
            sampling=_sampling(request, grammar, choice),
            max_tokens=request.max_tokens if request.max_tokens and request.max_tokens > 0 else None,
            stop=(*([request.stop] if isinstance(request.stop, str) else request.stop or ()), *stop),
            logprobs=logprobs,
            visible=visible,
            thinking=thinking,
            thinking_budget=thinking_budget,
        )
        for prompt in prompts
        for choice in range(request.n)
    ]


def _sampling(request: Request, grammar: str, choice: int) -> Sampling:
    parameters = {name: getattr(request, name) for name in _SAMPLING_PARAMETERS} | {
        "top_k": max(0, request.top_k),  # llama.cpp also takes -1 for off
        "logit_bias": {int(token): float(bias) for token, bias in (request.logit_bias or {}).items()},
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
    """The prompts of a request: ``prompt`` may be one or several, each as text or as token ids."""
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, str)
    if is_list and prompt and not all(isinstance(item, int) for item in prompt):
        return list(prompt)
    return [prompt]


def _token_ids(engine: Engine, prompt: Prompt) -> Sequence[int]:
    if not isinstance(prompt, str):
        return prompt
    bos = engine.model.vocabulary.bos
    return engine.tokenize(prompt) or [bos] * (bos >= 0)


def _model_name(request: Request, engine: Engine) -> str:
    return request.model or readable(engine.model.path)


def _includes_usage(request: Request) -> bool:
    return bool((request.stream_options or {}).get("include_usage"))
