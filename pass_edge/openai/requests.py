"""The parameters of a request, with llama-cpp-python's names and defaults.

To add a sampling parameter, add it to ``Sampling`` and to ``Parameters``. Both requests, the server's
request bodies and the command line's options are made from these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields
from functools import cache
from numbers import Real
from typing import Any, Literal, get_args, get_type_hints

from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Text
from pass_edge.sampling.sampler import Sampling

Prompt = Text | Sequence[int | Text]
"""Text, token ids, or both in one list, as llama.cpp takes it."""
Bias = float | Literal[False]
LogitBias = Mapping[int | str, Bias] | Sequence[tuple[int | str, Bias]]
RANDOM_SEED = -1
"""The seed by which users of llama.cpp ask for a random one."""


def _parameter(default: Any, description: str, **limits: float) -> Any:
    """A field as the server's OpenAPI document describes it; ``limits`` are pydantic's: ge, gt, le, lt."""
    return field(default=default, metadata={"description": description, **limits})


def _unsupported(default: Any) -> Any:
    """A parameter of llama-cpp-python that this engine lacks: any value but the default is refused."""
    return field(default=default, metadata={"unsupported": True})


@cache
def _kinds(request: type) -> dict[str, set[Any]]:
    """Return the types of each field."""
    hints = get_type_hints(request)
    return {each.name: {*get_args(hints[each.name])} or {hints[each.name]} for each in fields(request)}


def _number(name: str, value: Any, *, whole: bool) -> float:
    is_number = isinstance(value, Real) and (not whole or value == value // 1)
    if not is_number:
        raise SettingsError(f"{name} is {value!r:.60}; it must be a {'whole ' if whole else ''}number")
    return int(value) if whole else float(value)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters that completions and chats share, in the library and in the server.

    ``max_tokens`` None, 0 or less generates as many tokens as fit. Choice i of ``n`` is sampled with ``seed``
    + i; None and -1 draw a random seed. ``logit_bias``: by token id or text, as pairs or as a mapping; False
    bans. ``stop_token_ids`` end the text as its end token does; with ``ignore_eos``, that token never comes.
    ``timings_per_token`` adds llama.cpp's timings to chunks and result. With ``mark_drafts``, a chunk of a
    stream holds either drafted text, and ``"drafted": true``, or sampled text. ``min_tokens``: as for
    ``Engine.stream``; ``include_stop_str_in_output``: the text includes the string it stopped at;
    ``skip_special_tokens`` False: it includes the text of control tokens. ``samplers``: llama.cpp's list,
    which leaves out those that are off. Code ends at a line that is indented by less than ``n_indent``, and
    at the end of its line after ``t_max_predict_ms``.

    These fields give the text a form, at most one of them: ``grammar`` (GBNF, or a LlamaGrammar);
    ``response_format``: ``{"type": "json_object"}``, with a ``schema`` if one is to be matched, or OpenAI's
    ``json_schema``; llama.cpp's ``json_schema``; vLLM's ``structured_outputs``.
    """

    temperature: float = _parameter(
        Sampling.temperature, "Randomness of the choice: 0 always takes the likeliest token.", ge=0, le=100
    )
    top_p: float = _parameter(
        Sampling.top_p, "Keep the likeliest tokens that hold this probability together; 1 is off.", gt=0, le=1
    )
    top_k: int = _parameter(
        Sampling.top_k, "Keep this many of the likeliest tokens; 0 and -1 are off.", ge=-1, le=2**31 - 1
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
    repeat_last_n: int = _parameter(
        Sampling.repeat_last_n,
        "Recent tokens that the penalties look at; -1 is all of them.",
        ge=-1,
        le=2**31 - 1,
    )
    seed: int | None = _parameter(Sampling.seed, "The same seed gives the same text.")
    logit_bias: LogitBias | None = None
    ignore_eos: bool = False
    grammar: object = None
    response_format: Mapping[str, Any] | None = None
    json_schema: Mapping[str, Any] | bool | None = None
    structured_outputs: Mapping[str, Any] | None = None
    stop: Text | Sequence[Text] | None = ()
    stop_token_ids: Sequence[int] | None = None
    min_tokens: int = _parameter(0, "Tokens before which nothing ends the text.", ge=0, le=2**31 - 1)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    samplers: Sequence[str] | None = None
    n_indent: int = _parameter(0, "End the text at a line that is indented less.", ge=0, le=2**31 - 1)
    t_max_predict_ms: int | None = None
    max_tokens: int | None = None
    n: int = 1
    stream: bool = False
    stream_options: Mapping[str, Any] | None = None
    timings_per_token: bool = False
    mark_drafts: bool = False
    model: str | None = None

    def __post_init__(self) -> None:
        """Take None for absent where it means nothing else. Raises SettingsError if another value than a
        number stands for one."""
        request: Any = type(self)
        for each in fields(self):
            value, kinds = getattr(self, each.name), _kinds(request)[each.name]
            if value is None and type(None) not in kinds and each.default is not MISSING:
                object.__setattr__(self, each.name, each.default)
            elif value is not None and kinds <= {int, float, type(None)}:
                object.__setattr__(self, each.name, _number(each.name, value, whole=float not in kinds))


@dataclass(frozen=True, kw_only=True)
class Request(Parameters):
    """Parameters of both requests that llama-cpp-python takes and the server does not.

    ``logits_processor``, and ``stopping_criteria`` of completions: a function, or a list of them, as for
    ``Engine.stream``.
    """

    typical_p: float = _unsupported(1.0)
    tfs_z: float = _unsupported(1.0)
    mirostat_mode: int = _unsupported(0)
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logits_processor: object = None

    @property
    def token_limit(self) -> int | None:
        """Most tokens of the text; None for as many as fit."""
        return self.max_tokens if self.max_tokens and self.max_tokens > 0 else None


@dataclass(frozen=True)
class CompletionRequest(Request):
    """The parameters of ``create_completion``.

    Beyond llama-cpp-python's: several prompts in ``prompt``, ``n`` choices for each, and OpenAI's
    ``stream_options``. With ``echo`` and ``logprobs``, the prompt has logprobs, too, which takes a pass for
    each of its tokens; ``max_tokens`` 0 then generates nothing. With a ``suffix``, the answer is what stands
    between ``prompt`` and it; the model must have tokens for this.
    """

    prompt: Prompt | Sequence[Prompt]
    _: KW_ONLY
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = None
    stopping_criteria: object = None

    @property
    def token_limit(self) -> int | None:
        only_scores = self.echo and self.logprobs is not None and self.max_tokens == 0
        return 0 if only_scores else super().token_limit


@dataclass(frozen=True, kw_only=True)
class LlamaCppRequest(CompletionRequest):
    """A completion whose result has the form of llama.cpp's own endpoint. ``max_tokens`` 0 only reads the
    prompt. ``return_tokens``: with token ids; ``response_fields``: the fields of the result, all if empty;
    "a/b" is the field b of a."""

    max_tokens: int | None = None
    return_tokens: bool = False
    response_fields: Sequence[str] = ()

    @property
    def token_limit(self) -> int | None:
        return None if self.max_tokens is None or self.max_tokens < 0 else self.max_tokens


@dataclass(frozen=True, kw_only=True)
class InfillRequest(LlamaCppRequest):
    """A request for the text between ``input_prefix``, with ``prompt`` behind it, and ``input_suffix``.
    ``input_extra``: further texts of the project, each with its ``text`` and ``filename``. What does not fit
    into the context is left out, far from the place."""

    prompt: str = ""
    input_prefix: str
    input_suffix: str
    input_extra: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class ChatCompletionRequest(Request):
    """The parameters of ``create_chat_completion``, and OpenAI's ``n`` and ``stream_options``.

    ``tool_choice``: "none", "auto" (if the chat template has tools), "required", or a tool.
    ``parallel_tool_calls`` False reads one call at most. ``chat_template_kwargs`` (such as
    ``{"enable_thinking": False}``) and ``reasoning_effort`` are told to the chat template. After
    ``thinking_budget_tokens`` tokens of thinking, the answer begins.

    If the last message is the assistant's, the answer continues it and holds only what is new;
    ``continue_final_message`` False begins a new message instead. ``add_generation_prompt`` False does not
    open the assistant's turn. With ``echo``, the answer also holds the content that it continues.
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
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    echo: bool = False
    logprobs: bool | None = None
    top_logprobs: int | None = None
    functions: object = _unsupported(None)
    function_call: object = _unsupported(None)


@dataclass(frozen=True)
class EmbeddingRequest:
    """A request for embeddings: ``input`` is one text or several, each as text or as token ids.
    ``encoding_format``: "float", or "base64" (of float32). ``dimensions``: only the model's own."""

    input: Prompt | Sequence[str] | Sequence[Sequence[int]]
    _: KW_ONLY
    encoding_format: str = "float"
    dimensions: int | None = None
    model: str | None = None


@dataclass(frozen=True)
class ResponseRequest(Request):
    """The parameters of OpenAI's Responses API, and llama.cpp's of sampling.

    ``input``: a text, or a list of items (messages, thinking, calls of functions and their outputs).
    ``text``: its ``format``. ``reasoning``: its ``effort`` is told to the chat template. Nothing is kept,
    whatever ``store`` says.
    """

    input: str | Sequence[Mapping[str, Any]]
    _: KW_ONLY
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: Mapping[str, Any] | None = None
    reasoning: Mapping[str, Any] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    include: Sequence[str] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: object = None
    prompt: object = None
    background: bool | None = None
    truncation: str | None = None
    top_logprobs: int | None = None
