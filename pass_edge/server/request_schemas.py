"""Request bodies with OpenAI's fields and llama.cpp's: top_k, min_p, repeat_penalty, grammar.

An unknown field is an error, because a client could not rely on a field that is ignored.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest, Parameters

TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Object = dict[str, Any]
Request = TypeVar("Request", CompletionRequest, ChatCompletionRequest)
_INT64 = 2**63
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(BaseModel):
    """What a stream sends besides its chunks."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class Body(Parameters):
    """Fields of both kinds of completions: ``Parameters``, with the limits of this server."""

    model: str | None = Field(None, description="Any name: there is one model.")
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=1024)
    grammar: str | None = Field(None, description="GBNF that the text must match.")
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=16)
    stream_options: StreamOptions | None = None  # type: ignore[assignment]
    user: str | None = Field(None, description="Not used.")


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=16)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=16)]
    )
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False

    def request(self, model: str) -> CompletionRequest:
        """Return the request to the engine; ``model`` is the name in the result."""
        return _request(CompletionRequest, self, model=model)


class Message(BaseModel):
    """One message. Other fields are passed to the model's chat template."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(min_length=1)
    content: str | list[Object] | None = None
    tool_calls: list[Object] | None = None


@dataclass(config=_CONFIG, frozen=True, kw_only=True)
class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Object | None = None
    tools: list[Object] | None = Field(None, max_length=128)
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool = Field(
        True, description="A forced call is always one; a free answer may have more."
    )
    chat_template_kwargs: Object | None = Field(
        None, description='Told to the chat template, e.g. {"enable_thinking": false}.'
    )
    reasoning_effort: str | None = Field(None, description="Told to the chat template.")
    thinking_budget_tokens: int | None = Field(
        None, ge=0, description="After so many tokens of thinking, the answer begins."
    )
    metadata: Object | None = Field(None, description="Not used.")
    store: bool | None = Field(None, description="Not used: nothing is stored.")

    def request(self, model: str) -> ChatCompletionRequest:
        """Return the request to the engine; ``model`` is the name in the result."""
        return _request(
            ChatCompletionRequest,
            self,
            model=model,
            messages=[message.model_dump(exclude_unset=True) for message in self.messages],
            max_tokens=self.max_completion_tokens or self.max_tokens,
        )


def _request(request_type: type[Request], body: Body, **changes: Any) -> Request:
    """Return a request with the fields that ``body`` has too, after ``changes``."""
    names = {each.name for each in fields(request_type)} & {each.name for each in fields(body)}
    changes["stream_options"] = body.stream_options and body.stream_options.model_dump()
    return request_type(**{name: getattr(body, name) for name in names} | changes)
