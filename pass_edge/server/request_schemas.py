"""Request bodies as OpenAI has them, with llama.cpp's additions (top_k, min_p, repeat_penalty, grammar).

An unknown field is an error: what would be passed over in silence could not be relied on.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest

Text = str
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Object = dict[str, Any]
_INT64 = 2**63


class StreamOptions(BaseModel):
    """What a stream tells besides its chunks."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class Body(BaseModel):
    """What completions and chat completions share. The defaults are llama.cpp's."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str | None = Field(None, description="Any name: there is one model.")
    temperature: float = Field(0.8, ge=0, le=100)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(40, ge=0, le=2**31 - 1)
    min_p: float = Field(0.05, ge=0, lt=1)
    repeat_penalty: float = Field(1.0, ge=0.01, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=1024)
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: int = Field(1, ge=1, le=16)
    max_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    grammar: str | None = Field(None, description="GBNF that the text must match.")
    user: str | None = Field(None, description="Not used.")

    def shared(self, name: str) -> dict[str, Any]:
        """As parameters of the engine's requests; ``name``: the model's."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias,
            "seed": self.seed,
            "stop": self.stop,
            "n": self.n,
            "stream": self.stream,
            "stream_options": self.stream_options and self.stream_options.model_dump(),
            "grammar": self.grammar,
            "model": name,
        }


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

    def request(self, name: str) -> CompletionRequest:
        """For the engine."""
        return CompletionRequest(
            self.prompt,
            max_tokens=self.max_tokens,
            logprobs=self.logprobs,
            echo=self.echo,
            **self.shared(name),
        )


class Message(BaseModel):
    """One message; what else it has is for the model's template."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(min_length=1)
    content: str | list[Object] | None = None
    tool_calls: list[Object] | None = None


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
    metadata: Object | None = Field(None, description="Not used.")
    store: bool | None = Field(None, description="Not used: nothing is stored.")

    def request(self, name: str) -> ChatCompletionRequest:
        """For the engine."""
        return ChatCompletionRequest(
            [message.model_dump(exclude_unset=True) for message in self.messages],
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
            response_format=self.response_format,
            tools=self.tools,
            tool_choice=self.tool_choice,
            **self.shared(name),
        )
