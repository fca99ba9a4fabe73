"""The parameters of a request, with llama-cpp-python's names and defaults.

To add a sampling parameter, add it to ``Sampling`` and to ``Parameters``. Both requests, the server's
request bodies and the command line's options are made from these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from pass_edge.sampling.sampler import Sampling

Prompt = str | Sequence[int]
RANDOM_SEED = -1
"""The seed by which users of llama.cpp ask for a random one."""


def _parameter(default: Any, description: str, **limits: float) -> Any:
    """A field as the server's OpenAPI document describes it; ``limits`` are pydantic's: ge, gt, le, lt."""
    return field(default=default, metadata={"description": description, **limits})


def _unsupported(default: Any) -> Any:
    """A parameter of llama-cpp-python that this engine lacks: any value but the default is refused."""
    return field(default=default, metadata={"unsupported": True})


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters that completions and chats share, in the library and in the server.

    ``grammar`` is GBNF, or a LlamaGrammar. ``max_tokens`` None or 0 generates as many tokens as fit. Choice i
    of ``n`` is sampled with ``seed`` + i; None and -1 draw a random seed.
    """

    temperature: float = _parameter(
        Sampling.temperature, "Randomness of the choice: 0 always takes the likeliest token.", ge=0, le=100
    )
    top_p: float = _parameter(
        Sampling.top_p, "Keep the likeliest tokens that hold this probability together; 1 is off.", gt=0, le=1
    )
    top_k: int = _parameter(
        Sampling.top_k, "Keep this many of the likeliest tokens; 0 is off.", ge=0, le=2**31 - 1
    )
    min_p: float = _parameter(
        Sampling.min_p, "Drop tokens less likely than this share of the likeliest one; 0 is off.", ge=0, lt=1
    )
    repeat_penalty: float = _parameter(
        Sampling.repeat_penalty, "Make recent tokens less likely; 1 is off.", ge=0.01, le=100
    )
    presence_penalty: float = _parameter(
        Sampling.presence_penalty,
        "Subtract this from the logit of each recent token.",
        ge=-2,
        le=2,
    )
    frequency_penalty: float = _parameter(
        Sampling.frequency_penalty,
        "Subtract this from a token's logit for each recent occurrence.",
        ge=-2,
        le=2,
    )
    seed: int | None = _parameter(Sampling.seed, "The same seed gives the same text.")
    logit_bias: Mapping[int, float] | None = None
    grammar: object = None
    stop: str | Sequence[str] | None = ()
    max_tokens: int | None = None
    n: int = 1
    stream: bool = False
    stream_options: Mapping[str, Any] | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Request(Parameters):
    """Parameters of both requests that llama-cpp-python takes and the server does not."""

    typical_p: float = _unsupported(1.0)
    tfs_z: float = _unsupported(1.0)
    mirostat_mode: int = _unsupported(0)
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logits_processor: object = _unsupported(None)


@dataclass(frozen=True)
class CompletionRequest(Request):
    """The parameters of ``create_completion``.

    Beyond llama-cpp-python's: several prompts in ``prompt``, ``n`` choices for each, and OpenAI's
    ``stream_options``.
    """

    prompt: Prompt | Sequence[str] | Sequence[Sequence[int]]
    _: KW_ONLY
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = _unsupported(None)
    stopping_criteria: object = _unsupported(None)


@dataclass(frozen=True)
class ChatCompletionRequest(Request):
    """The parameters of ``create_chat_completion``, and OpenAI's ``n`` and ``stream_options``.

    ``response_format``: ``{"type": "json_object"}``, with a ``schema`` if one is to be matched, or OpenAI's
    ``json_schema``. ``tool_choice``: "none", "auto" (if the chat template has tools), "required", or a tool.
    ``parallel_tool_calls`` False reads one call at most. ``chat_template_kwargs`` (such as
    ``{"enable_thinking": False}``) and ``reasoning_effort`` are told to the chat template. After
    ``thinking_budget_tokens`` tokens of thinking, the answer begins.
    """

    messages: Sequence[Mapping[str, Any]]
    _: KW_ONLY
    temperature: float = 0.2
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    reasoning_effort: str | None = None
    thinking_budget_tokens: int | None = None
    response_format: Mapping[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    functions: object = _unsupported(None)
    function_call: object = _unsupported(None)
