"""Answer a request with an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from numbers import Integral
from typing import Any

from pass_edge.engine import Engine
from pass_edge.generation import Generation, StoppingCriterion
from pass_edge.native.chat_template import has_tools
from pass_edge.native.errors import SettingsError
from pass_edge.native.model_path import readable
from pass_edge.native.vocabulary import Text, Vocabulary, as_text
from pass_edge.sampling.sampler import Sampling
from pass_edge.text_stream import stop_strings
from pass_edge.thinking import Thinking, begun_turn, thinking_of

from .answer_grammar import answer_grammar, grammar_text
from .answers import Answer
from .formatters import ChatFormatter, Json, TextFormatter
from .infill import infill_prompt, infill_tokens
from .message_parser import MessageParser
from .messages import begun_message, plain_messages
from .notations import notation_of
from .requests import (
    RANDOM_SEED,
    ChatCompletionRequest,
    CompletionRequest,
    Prompt,
    Request,
    ResponseRequest,
)
from .response_formatter import ResponseFormatter
from .responses import chat_request

AnyRequest = CompletionRequest | ChatCompletionRequest | ResponseRequest
_MAX_CHOICES = 128
_SAMPLING_PARAMETERS = {each.name for each in fields(Sampling)} & {each.name for each in fields(Request)}


def complete(engine: Engine, request: AnyRequest) -> Json | Iterator[Json]:
    """Answer ``request``: return OpenAI's result object or, with ``request.stream``, an iterator over chunks.

    Raises SettingsError (a parameter is wrong or not supported), ContextFullError (the prompt does not fit),
    ModelError (the model's chat template refuses the messages).
    """
    answer = start(engine, request)
    return iter(answer) if request.stream else answer.result()


async def acomplete(engine: Engine, request: AnyRequest) -> Json | AsyncIterator[Json]:
    """Await ``complete``; the event loop stays free, and chunks are for ``async for``."""
    answer = await asyncio.to_thread(start, engine, request)
    return aiter(answer) if request.stream else await answer.aresult()


def start(engine: Engine, request: AnyRequest) -> Answer:
    """Check ``request`` and return its answer, not yet generated. Raises as ``complete`` does."""
    refuse_unsupported(request)
    if isinstance(request, ChatCompletionRequest):
        return _start_chat(engine, request, ChatFormatter)
    if isinstance(request, ResponseRequest):
        return _start_chat(engine, chat_request(request), partial(ResponseFormatter, request))
    return _start_completion(engine, request)


def _start_completion(engine: Engine, request: CompletionRequest) -> Answer:
    prompts = _prompts(request.prompt)
    only = as_text(prompts[0]) if len(prompts) == 1 and isinstance(prompts[0], Text) else ""
    if request.echo and (not only or request.logprobs is not None):
        raise SettingsError("echo works for one prompt that is text, and without logprobs")
    formatter = TextFormatter(
        _model_name(request, engine), engine.model.vocabulary, prompt=only, echo=request.echo
    )
    vocabulary, suffix = engine.model.vocabulary, request.suffix
    generations = _generations(
        engine,
        request,
        [infill_prompt(vocabulary, each, suffix) if suffix else _token_ids(engine, each) for each in prompts],
        grammar=grammar_text(request.grammar),
        logprobs=request.logprobs,
        stopping_criteria=functions(request.stopping_criteria, "stopping_criteria"),
        ends=infill_tokens(vocabulary) if suffix else (),
    )
    return Answer(generations, formatter, n=request.n, include_usage=_includes_usage(request))


def _start_chat(
    engine: Engine,
    request: ChatCompletionRequest,
    new_formatter: Callable[
        [str, Vocabulary, Callable[[], MessageParser]], ChatFormatter | ResponseFormatter
    ],
) -> Answer:
    tools = list(request.tools or ()) if request.tool_choice != "none" else []
    vocabulary = engine.model.vocabulary
    if tools and request.tool_choice in (None, "auto") and not has_tools(engine.model):
        raise SettingsError(
            "this model's chat template has no tools, so it cannot choose one; "
            'force a call with tool_choice ("required", or a tool)'
        )
    messages = plain_messages(request.messages)
    begun = begun_message(
        messages, continues=request.continue_final_message, opens_turn=request.add_generation_prompt
    )
    if begun and tools and request.tool_choice not in (None, "auto"):
        raise SettingsError("a forced tool call cannot continue a message of the assistant; give one of both")
    text = engine.prompt_text(
        messages[:-1] if begun else messages,
        tools=tools,
        tool_choice=request.tool_choice,
        template_arguments=_template_arguments(request),
        opens_turn=bool(begun) or request.add_generation_prompt is not False,
    )
    template = engine.model.chat_template() or ""
    thinking, content = thinking_of(template, text), ""
    if begun:
        content = begun["content"]
        turn, thinking = begun_turn(thinking, text, str(begun.get("reasoning_content") or ""), content)
        text += turn
    notation = notation_of(template)
    answer = answer_grammar(request, tools, notation, thinking, vocabulary)
    generations = _generations(
        engine,
        request,
        [engine.tokenize(text)],
        grammar=answer.grammar,
        grammar_start=content if answer.has_format and not request.grammar else "",
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        visible=vocabulary.control_tokens_in("".join(answer.notation.texts)) if tools else (),
        stop=engine.chat_stop,
        thinking=thinking,
        thinking_budget=request.thinking_budget_tokens,
    )
    formatter = new_formatter(
        _model_name(request, engine),
        vocabulary,
        lambda: MessageParser(thinking, answer.new_parser(is_alone=not content.strip())),
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
    grammar_start: str = "",
    visible: Collection[int] = (),
    stop: Sequence[str] = (),
    stopping_criteria: Sequence[StoppingCriterion] = (),
    ends: Collection[int] = (),
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
            sampling=sampling_of(request, grammar, choice, grammar_start),
            max_tokens=request.max_tokens if request.max_tokens and request.max_tokens > 0 else None,
            stop=[*stop_strings(request.stop), *stop],
            logprobs=logprobs,
            visible=visible,
            logits_processors=functions(request.logits_processor, "logits_processor"),
            stopping_criteria=stopping_criteria,
            ends=ends,
            thinking=thinking,
            thinking_budget=thinking_budget,
        )
        for prompt in prompts
        for choice in range(request.n)
    ]


def functions(given: Any, name: str) -> Sequence[Callable[..., Any]]:
    """Return the functions of the parameter ``name``: one, several, or None. llama-cpp-python's lists of
    functions, which can be called themselves, count as several. Raises SettingsError."""
    listed = list(given) if isinstance(given, Iterable) else [given] if given is not None else []
    if not all(map(callable, listed)):
        raise SettingsError(f"{name} must be a function, or a list of functions")
    return listed


def sampling_of(request: Request, grammar: str, choice: int = 0, grammar_start: str = "") -> Sampling:
    """Return how ``choice`` of ``request`` is sampled. Raises SettingsError."""
    parameters = {name: getattr(request, name) for name in _SAMPLING_PARAMETERS} | {
        "top_k": max(0, request.top_k),  # llama.cpp also takes -1 for off
        "logit_bias": {int(token): float(bias) for token, bias in (request.logit_bias or {}).items()},
        "seed": None if request.seed in (None, RANDOM_SEED) else request.seed + choice,
        "grammar": grammar,
        "grammar_start": grammar_start,
    }
    return Sampling(**parameters)


def refuse_unsupported(request: Request) -> None:
    """Raise SettingsError if ``request`` has a parameter that this engine lacks."""
    for each in fields(request):
        if "unsupported" in each.metadata and getattr(request, each.name) != each.default:
            hint = "; use tools and tool_choice" if each.name.startswith("function") else ""
            raise SettingsError(f"{each.name} is not supported{hint}")


def _prompts(prompt: Any) -> list[Prompt]:
    """The prompts of a request: ``prompt`` may be one or several, each as text or as token ids."""
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, Text)
    if is_list and prompt and not all(isinstance(item, Integral) for item in prompt):
        return list(prompt)
    return [prompt]


def _token_ids(engine: Engine, prompt: Prompt) -> Sequence[int]:
    if not isinstance(prompt, Text):
        return prompt
    bos = engine.model.vocabulary.bos
    return engine.tokenize(prompt) or [bos] * (bos >= 0)


def _model_name(request: Request, engine: Engine) -> str:
    return request.model or readable(engine.model.path)


def _includes_usage(request: Request) -> bool:
    return bool((request.stream_options or {}).get("include_usage"))
