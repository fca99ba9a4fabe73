"""Request bodies with OpenAI's fields, llama.cpp's and vLLM's.

null means that a field is absent. request_fields.py says what becomes of fields that are not declared here.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from pass_edge.native.errors import SettingsError
from pass_edge.openai.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    InfillRequest,
    LlamaCppRequest,
    Parameters,
    ResponseRequest,
)

from .request_fields import known_fields

TokenId = Annotated[int, Strict(), Field(ge=0)]
Bias = Annotated[float, Strict()] | Literal[False]
Object = dict[str, Any]
Request = TypeVar("Request", CompletionRequest, ChatCompletionRequest, LlamaCppRequest, ResponseRequest)
_INT64 = 2**63
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
_MAX_PROMPTS = 16
_MODEL = "The name of one of several models; a single model answers to any."
_NO_TOKENS: Final = "it must be 1 or more, or -1 for as many tokens as fit"


def _positive_or_all(limit: int) -> int:
    if limit == 0:
        raise ValueError(_NO_TOKENS)
    return limit


def _few_prompts(prompt: Any) -> Any:
    is_list = isinstance(prompt, list) and not any(isinstance(item, int) for item in prompt)
    if is_list and len(prompt) > _MAX_PROMPTS:
        raise ValueError(f"there may be at most {_MAX_PROMPTS} prompts, not {len(prompt)}")
    return prompt


TokenLimit = Annotated[int, Field(ge=-1), AfterValidator(_positive_or_all)]
UncheckedLimit = Annotated[int, Field(ge=-1)]
TokensAndTexts = Annotated[list[TokenId | str], Field(min_length=1)]
Prompts = Annotated[
    str | Annotated[list[TokenId | str | TokensAndTexts], Field(min_length=1)], AfterValidator(_few_prompts)
]


class StreamOptions(BaseModel):
    """What a stream sends besides its chunks."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Not used.")


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class Fields:
    """A body whose fields may be null, and which may have hints beside them."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = known_fields(data, {each.name for each in fields(cls)})
        for name, value in given.items():
            if isinstance(value, bool) and not _takes(bool, get_type_hints(cls)[name]):
                raise PydanticCustomError("boolean", "Input should not be true or false", {"field": name})
        return given


def _takes(kind: type, annotation: Any) -> bool:
    """Return whether a value of ``kind`` is among those of a type."""
    if annotation in (Any, object, kind) or (get_origin(annotation) is Literal):
        return True
    return any(_takes(kind, each) for each in get_args(annotation))


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class Body(Fields, Parameters):
    """Fields of both kinds of completions: ``Parameters``, with the limits of this server."""

    model: str | None = Field(None, description=_MODEL)
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    logit_bias: (
        Annotated[dict[TokenId | str, Bias], Field(max_length=1024)]
        | Annotated[list[tuple[TokenId | str, Bias]], Field(max_length=1024)]
        | None
    ) = Field(None, description="By token id or text; false bans the token.")
    grammar: str | None = Field(None, description="GBNF that the text must match.")
    response_format: Object | None = None
    json_schema: Object | bool | None = Field(None, description="A JSON schema that the text must match.")
    structured_outputs: Object | None = Field(None, description="vLLM's: json, regex, choice or grammar.")
    guided_json: Object | str | None = Field(None, description="As json in structured_outputs.")
    guided_regex: str | None = Field(None, description="As regex in structured_outputs.")
    guided_choice: list[str] | None = Field(None, description="As choice in structured_outputs.")
    guided_grammar: str | None = Field(None, description="As grammar in structured_outputs.")
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    samplers: str | Annotated[list[str], Field(max_length=32)] | None = Field(
        None, description="llama.cpp's list: samplers that it leaves out are off."
    )
    t_max_predict_ms: int | None = Field(
        None, ge=-1, lt=_INT64, description="End the text at a line break after so long."
    )
    max_tokens: TokenLimit | None = Field(None, description="-1: as many as fit.")
    max_completion_tokens: TokenLimit | None = Field(None, description="OpenAI's newer name of max_tokens.")
    n_predict: TokenLimit | None = Field(None, description="llama.cpp's name of max_tokens.")
    n_probs: int | None = Field(None, ge=0, le=20, description="llama.cpp's name of (top_)logprobs.")
    n: int = Field(1, ge=1, le=16)
    stream_options: StreamOptions | None = None  # type: ignore[assignment]


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: UncheckedLimit | None = Field(
        None, description="-1: as many as fit; 0, with echo and logprobs: only the prompt is read."
    )
    suffix: str | None = Field(
        None, description="What follows the text, if the model was trained to fill in."
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | Literal[False] | None = None
    echo: bool = False

    def request(self, model: str) -> CompletionRequest:
        """Return the request to the engine; ``model`` is the name in the result."""
        return _request(CompletionRequest, self, model=model, logprobs=self._n_logprobs)

    @property
    def _n_logprobs(self) -> int | None:
        if self.logprobs is None:
            return self.n_probs or None
        return None if self.logprobs is False else self.logprobs

    @model_validator(mode="after")
    def _generates_or_scores(self) -> CompletionBody:
        if self.max_tokens == 0 and not (self.echo and self._n_logprobs is not None):
            raise PydanticCustomError("no_tokens", _NO_TOKENS, {"field": "max_tokens"})
        return self


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class LlamaCppBody(Body):
    """POST /completion, which is llama.cpp's own endpoint."""

    prompt: Prompts
    n_predict: UncheckedLimit | None = Field(None, description="-1: as many as fit; 0 only reads the prompt.")
    max_tokens: UncheckedLimit | None = Field(None, description="OpenAI's name of n_predict.")
    return_tokens: bool = False
    response_fields: list[str] = Field(default_factory=list, max_length=64)
    n_cmpl: int | None = Field(None, ge=1, le=16, description="llama.cpp's name of n.")

    def request(self, model: str) -> LlamaCppRequest:
        """Return the request to the engine; ``model`` is the name in the result."""
        n = self.n if self.n_cmpl is None else self.n_cmpl
        return _request(LlamaCppRequest, self, model=model, logprobs=self.n_probs or None, n=n)


class ExtraText(BaseModel):
    """A text of the project. Other fields, such as the time, are not used."""

    model_config = ConfigDict(extra="ignore")

    text: str
    filename: str | None = None


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class InfillBody(LlamaCppBody):
    """POST /infill, which is llama.cpp's own endpoint for code."""

    prompt: str = Field("", description="Text behind input_prefix.")
    input_prefix: str = Field(description="What stands before the text.")
    input_suffix: str = Field(description="What stands behind it.")
    input_extra: list[ExtraText] = Field(
        default_factory=list, max_length=1024, description="Further texts of the project."
    )

    def request(self, model: str) -> InfillRequest:
        """Return the request to the engine; ``model`` is the name in the result."""
        return InfillRequest(
            **vars(super().request(model)),
            input_prefix=self.input_prefix,
            input_suffix=self.input_suffix,
            input_extra=[each.model_dump(exclude_none=True) for each in self.input_extra],
        )


class Message(BaseModel):
    """One message. Other fields are passed to the model's chat template. Only the assistant's may be without
    content."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"required": ["role", "content"]})

    role: str = Field(min_length=1)
    content: str | list[Object] | SkipJsonSchema[None] = None
    tool_calls: list[Object] | None = None


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class ChatBody(Body):
    """POST /v1/chat/completions; /apply-template takes it too."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Object] | None = Field(None, max_length=128)
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = Field(
        None, description="true: several calls may be forced; false: at most one is read."
    )
    chat_template_kwargs: Object | None = Field(
        None, description='Told to the chat template, e.g. {"enable_thinking": false}.'
    )
    reasoning_effort: str | None = Field(None, description="Told to the chat template.")
    thinking_budget_tokens: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="After so many tokens of thinking, the answer begins; -1 leaves it to the server."
    )
    continue_final_message: bool | None = Field(
        None, description="Whether the answer continues a last message of the assistant; by default it does."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Whether the assistant's turn is opened; by default it is."
    )
    echo: bool = Field(False, description="Begin the answer with the content that it continues.")

    def request(self, model: str) -> ChatCompletionRequest:
        """Return the request to the engine; ``model`` is the name in the result. Raises SettingsError."""
        if self.top_logprobs and not self.logprobs:
            raise SettingsError("top_logprobs needs logprobs true")
        return _request(
            ChatCompletionRequest,
            self,
            model=model,
            messages=[message.model_dump(exclude_unset=True) for message in self.messages],
            thinking_budget_tokens=None if self.thinking_budget_tokens == -1 else self.thinking_budget_tokens,
            logprobs=self.logprobs or bool(self.n_probs),
            top_logprobs=self.top_logprobs or self.n_probs,
        )


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class EmbeddingBody(Fields):
    """POST /v1/embeddings."""

    input: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=2048)]
    )
    model: str | None = Field(None, description=_MODEL)
    encoding_format: str | None = Field(None, description="float, or base64 of float32.")
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")

    def request(self, model: str) -> EmbeddingRequest:
        """Return the request to the model; ``model`` is the name in the result."""
        encoding = self.encoding_format or "float"
        return EmbeddingRequest(self.input, encoding_format=encoding, dimensions=self.dimensions, model=model)


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class ResponseBody(Body):
    """POST /v1/responses."""

    input: str | list[Object] = Field(description="A text, or the items of the conversation so far.")
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    tools: list[Object] | None = Field(None, max_length=128, description="Functions.")
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    text: Object | None = Field(None, description="Its format: text, json_object, or json_schema.")
    reasoning: Object | None = Field(None, description="Its effort is told to the chat template.")
    chat_template_kwargs: Object | None = Field(None, description="Told to the chat template.")
    metadata: Object | None = Field(None, description="Returned with the response.")
    store: bool | None = Field(None, description="Nothing is stored, whatever it says.")
    include: list[str] | None = Field(None, description="Logprobs are refused; others are not used.")
    previous_response_id: str | None = Field(None, description="Refused: nothing is kept.")
    conversation: str | Object | None = Field(None, description="Refused: nothing is kept.")
    prompt: Object | None = Field(None, description="Refused: no prompts are kept.")
    background: bool | None = Field(None, description="Only false.")
    truncation: str | None = Field(None, description="Only disabled.")
    top_logprobs: int | None = Field(None, ge=0, le=0)

    def request(self, model: str) -> ResponseRequest:
        """Return the request to the engine; ``model`` is the name in the result."""
        return _request(ResponseRequest, self, model=model)


def _request(request_type: type[Request], body: Body, **changes: Any) -> Request:
    """Return a request with the fields that ``body`` has too, after ``changes``."""
    names = {each.name for each in fields(request_type)} & {each.name for each in fields(body)}
    limits = (body.max_completion_tokens, body.max_tokens, body.n_predict)
    limit = next((limit for limit in limits if limit is not None), None)
    guided = {name: getattr(body, f"guided_{name}") for name in ("json", "regex", "choice", "grammar")}
    values = {name: getattr(body, name) for name in names} | changes
    values["stream_options"] = body.stream_options and body.stream_options.model_dump()
    values["structured_outputs"] = {**guided, **(body.structured_outputs or {})}
    values["max_tokens"] = request_type.max_tokens if limit is None else limit
    return request_type(**values)


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class TokenizeBody(Fields):
    """POST /tokenize: llama.cpp's fields, and vLLM's, which name the text ``prompt``."""

    content: str | None = None
    prompt: str | None = Field(None, description="vLLM's name of content.")
    model: str | None = Field(None, description=_MODEL)
    add_special: bool = Field(False, description="Add BOS, if the model wants one.")
    add_special_tokens: bool = Field(True, description="vLLM's name of add_special, for a prompt.")
    parse_special: bool = Field(True, description="Read control tokens that are written out in the text.")
    with_pieces: bool = Field(False, description="Return the text of each token, or its bytes.")
    return_token_strs: bool = Field(False, description="Also return vLLM's token_strs.")


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class DetokenizeBody(Fields):
    """POST /detokenize."""

    tokens: list[TokenId]
    model: str | None = Field(None, description=_MODEL)
