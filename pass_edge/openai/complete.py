"""Answer a request with an engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from numbers import Integral
from typing import Any

from pass_edge.engine import Engine
from pass_edge.generation import Generation, StoppingCriterion
from pass_edge.line_limit import LineLimit
from pass_edge.native.chat_template import has_tools
from pass_edge.native.errors import SettingsError
from pass_edge.native.model_path import readable
from pass_edge.native.vocabulary import Text, Vocabulary, as_bytes, as_text
from pass_edge.sampling.sampler import Sampling
from pass_edge.text_stream import stop_strings
from pass_edge.thinking import Thinking, begun_turn, thinking_of

from .answer_grammar import answer_grammar
from .answers import Answer, Formatter
from .formatters import ChatFormatter, Json, TextFormatter
from .infill import infill_prompt, infill_tokens
from .llama_cpp_formatter import LlamaCppFormatter
from .logit_bias import token_biases
from .message_parser import MessageParser
from .messages import begun_message, plain_messages
from .notations import notation_of
from .output_form import form_grammar
from .requests import (
    RANDOM_SEED,
    ChatCompletionRequest,
    CompletionRequest,
    InfillRequest,
    LlamaCppRequest,
    Prompt,
    Request,
    ResponseRequest,
)
from .response_formatter import ResponseFormatter
from .responses import chat_request
from .samplers import parameters_of_idle

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


def prompt_text(engine: Engine, request: ChatCompletionRequest) -> str:
    """Return the prompt that the model's chat template makes of a request. Raises as ``complete`` does."""
    return _turn(engine, request)[0]


def _turn(engine: Engine, request: ChatCompletionRequest) -> tuple[str, Thinking | None, str]:
    """The prompt of a chat, up to where the answer begins; the thinking that it may begin with; and the
    content of the assistant's message that it continues."""
    tools = _offered_tools(request)
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
    thinking = thinking_of(engine.model.chat_template() or "", text)
    if not begun:
        return text, thinking, ""
    content: str = begun["content"]
    turn, thinking = begun_turn(thinking, text, str(begun.get("reasoning_content") or ""), content)
    return text + turn, thinking, content


def _start_completion(engine: Engine, request: CompletionRequest) -> Answer:
    prompts = _prompts(request.prompt)
    vocabulary = engine.model.vocabulary
    ids = [_completion_prompt(engine, request, each) for each in prompts]
    fills_in = bool(request.suffix) or isinstance(request, InfillRequest)
    generations = _generations(
        engine,
        request,
        ids,
        grammar=form_grammar(request),
        logprobs=request.logprobs,
        scores_prompt=request.echo,
        stopping_criteria=functions(request.stopping_criteria, "stopping_criteria"),
        ends=[token for token in infill_tokens(vocabulary) if token >= 0] if fills_in else (),
    )
    return _answer(request, generations, _completion_formatter(engine, request, prompts, ids))


def _completion_prompt(engine: Engine, request: CompletionRequest, prompt: Prompt) -> Sequence[int]:
    """The token ids that one of the request's prompts becomes."""
    vocabulary = engine.model.vocabulary
    if isinstance(request, InfillRequest):
        size, limit = engine.context_size, request.token_limit
        room = size - max(1, min(size // 4 if limit is None else limit, size // 2))
        parts = [request.input_prefix, request.prompt]
        return infill_prompt(vocabulary, parts, request.input_suffix, request.input_extra, room=room)
    if request.suffix:
        return infill_prompt(vocabulary, prompt, request.suffix)
    return _token_ids(engine, prompt)


def _completion_formatter(
    engine: Engine, request: CompletionRequest, prompts: Sequence[Prompt], ids: Sequence[Prompt]
) -> TextFormatter | LlamaCppFormatter:
    model, vocabulary = _model_name(request, engine), engine.model.vocabulary
    if isinstance(request, LlamaCppRequest):
        read = [_prompt_text(each, vocabulary) for each in ids]
        return LlamaCppFormatter(request, model, vocabulary, read, request.n)
    texts = [_prompt_text(each, vocabulary) for each in prompts]
    return TextFormatter(model, vocabulary, prompts=texts, n=request.n, echo=request.echo)


def _start_chat(
    engine: Engine,
    request: ChatCompletionRequest,
    new_formatter: Callable[
        [str, Vocabulary, Callable[[], MessageParser]], ChatFormatter | ResponseFormatter
    ],
) -> Answer:
    tools = _offered_tools(request)
    vocabulary = engine.model.vocabulary
    if tools and request.tool_choice in (None, "auto") and not has_tools(engine.model):
        raise SettingsError(
            "this model's chat template has no tools, so it cannot choose one; "
            'force a call with tool_choice ("required", or a tool)'
        )
    text, thinking, content = _turn(engine, request)
    notation = notation_of(engine.model.chat_template() or "")
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
        lambda: MessageParser(
            thinking, answer.new_parser(is_alone=not content.strip()), content if request.echo else ""
        ),
    )
    return _answer(request, generations, formatter)


def _answer(request: Request, generations: Sequence[Generation], formatter: Formatter) -> Answer:
    return Answer(
        generations,
        formatter,
        n=request.n,
        include_usage=bool((request.stream_options or {}).get("include_usage")),
        include_timings=request.timings_per_token,
        mark_drafts=request.mark_drafts,
    )


def _offered_tools(request: ChatCompletionRequest) -> list[Mapping[str, Any]]:
    return list(request.tools or ()) if request.tool_choice != "none" else []


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
    scores_prompt: bool = False,
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
    vocabulary, stops = engine.model.vocabulary, stop_strings(request.stop)
    biases = biases_of(request, vocabulary, grammar)
    return [
        engine.stream(
            prompt,
            sampling=sampling_of(request, grammar, choice, biases=biases, grammar_start=grammar_start),
            max_tokens=request.token_limit,
            stop=[*stops, *stop],
            logprobs=logprobs,
            scores_prompt=scores_prompt,
            visible=visible if request.skip_special_tokens else range(vocabulary.size),
            logits_processors=functions(request.logits_processor, "logits_processor"),
            stopping_criteria=stopping_criteria,
            ends=(*ends, *(request.stop_token_ids or ())),
            thinking=thinking,
            thinking_budget=thinking_budget,
            min_tokens=request.min_tokens,
            kept_stops=stops if request.include_stop_str_in_output else (),
            line_limit=_line_limit(request),
        )
        for prompt in prompts
        for choice in range(request.n)
    ]


def _line_limit(request: Request) -> LineLimit | None:
    milliseconds = request.t_max_predict_ms
    seconds = milliseconds / 1000 if milliseconds and milliseconds > 0 else None
    return LineLimit(request.n_indent, seconds) if request.n_indent > 0 or seconds else None


def functions(given: Any, name: str) -> Sequence[Callable[..., Any]]:
    """Return the functions of the parameter ``name``: one, several, or None. llama-cpp-python's lists of
    functions, which can be called themselves, count as several. Raises SettingsError."""
    listed = list(given) if isinstance(given, Iterable) else [given] if given is not None else []
    if not all(map(callable, listed)):
        raise SettingsError(f"{name} must be a function, or a list of functions")
    return listed


def biases_of(request: Request, vocabulary: Vocabulary, grammar: str) -> dict[int, float]:
    """Return the biases of a request by token. Raises SettingsError."""
    biases = token_biases(request.logit_bias, vocabulary)
    if request.ignore_eos and grammar:
        raise SettingsError("a text in a given form must be able to end; leave ignore_eos out")
    return biases | dict.fromkeys(vocabulary.end_tokens if request.ignore_eos else (), -math.inf)


def sampling_of(
    request: Request,
    grammar: str,
    choice: int = 0,
    *,
    biases: Mapping[int, float],
    grammar_start: str = "",
) -> Sampling:
    """Return how ``choice`` of ``request`` is sampled. Raises SettingsError."""
    given = {name: getattr(request, name) for name in _SAMPLING_PARAMETERS}
    given["top_k"] = max(0, request.top_k)  # llama.cpp also takes -1 for off
    parameters = {
        **given,
        **parameters_of_idle(request.samplers),
        "logit_bias": biases,
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
    """The prompts of a request: ``prompt`` may be one, or a list. A list with a token id is one prompt."""
    prompt = _text_or_list(prompt)
    if isinstance(prompt, Text) or not prompt:
        return [prompt]
    if not any(isinstance(item, Integral) for item in prompt):
        return [*map(_text_or_list, prompt)]
    if not all(isinstance(item, Integral | Text) for item in prompt):
        raise SettingsError("a list holds either prompts, or the token ids and texts of one prompt; not both")
    return [prompt]


def _text_or_list(prompt: Any) -> Prompt:
    if isinstance(prompt, Text):
        return prompt
    try:
        return list(prompt)
    except TypeError:
        raise SettingsError(
            f"the prompt is {prompt!r:.60}; it must be text, token ids, or a list of prompts"
        ) from None


def _token_ids(engine: Engine, prompt: Prompt) -> Sequence[int]:
    """The token ids of a prompt. A BOS token comes before text at its beginning, if the model wants one."""
    bos, tokenize = engine.model.vocabulary.bos, engine.model.vocabulary.tokenize
    if isinstance(prompt, Text):
        return engine.tokenize(prompt) or [bos] * (bos >= 0)
    ids: list[int] = []
    for i, part in enumerate(prompt):
        if isinstance(part, Text):
            ids += tokenize(part, parse_special=True).tolist() if i else engine.tokenize(part)
        else:
            ids.append(part)
    return ids


def _prompt_text(prompt: Prompt, vocabulary: Vocabulary) -> str:
    """The text of a prompt, which stands before its answer."""
    if isinstance(prompt, Text):
        return as_text(prompt)
    parts = (
        as_bytes(part) if isinstance(part, Text) else vocabulary.piece(part, special=True) for part in prompt
    )
    return b"".join(parts).decode("utf-8", "replace")


def _model_name(request: Request, engine: Engine) -> str:
    return request.model or readable(engine.model.path)
