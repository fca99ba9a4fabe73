"""Responses, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Object = dict[str, Any]


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error."""

    error: Error


class Draft(BaseModel):
    """What drafting did: forward passes, drafted tokens, accepted tokens, and speed."""

    passes: int
    drafted_tokens: int
    accepted_tokens: int
    tokens_per_pass: float
    tokens_per_second: float


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    draft: Draft


class TextChoice(BaseModel):
    text: str
    index: int
    logprobs: Object | None
    finish_reason: str


class Completion(BaseModel):
    """The result of /v1/completions; a stream's chunks have the same form, without usage."""

    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class LlamaCppCompletion(BaseModel):
    """The result of /completion; several texts are a list. ``response_fields`` may leave all fields out."""

    index: int = 0
    content: str = ""
    tokens: list[int] = []
    stop: bool = True


class ChatChoice(BaseModel):
    index: int
    message: Object
    logprobs: Object | None
    finish_reason: str


class ChatCompletion(BaseModel):
    """The result of /v1/chat/completions; a stream's chunks have a delta in place of the message."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Response(BaseModel):
    """The result of /v1/responses; a stream's events have it in their first and last."""

    id: str
    object: str
    created_at: int
    model: str
    status: str
    incomplete_details: Object | None
    output: list[Object]
    usage: Object


class Embedding(BaseModel):
    object: str
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    """The result of /v1/embeddings."""

    object: str
    data: list[Embedding]
    model: str
    usage: dict[str, int]


class ModelStatus(BaseModel):
    """``value``: loaded, loading or unloaded, as llama.cpp's server has it; ``error``: why the last load
    failed, null if it did not."""

    value: str
    failed: bool
    error: str | None


class ModelCard(BaseModel):
    """A model. ``context_size``: most tokens of a conversation, or of a text; ``schedule``: how it drafts,
    null for an embedding model. Both are null until it is loaded."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "pass-edge"
    context_size: int | None
    schedule: str | None
    status: ModelStatus


class ModelList(BaseModel):
    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: str = "ok"
    slots: int
    slots_idle: int


class TokenPiece(BaseModel):
    """A token, and its text, or its bytes if they are no text by themselves."""

    id: int
    piece: str | list[int]


class Tokens(BaseModel):
    """The result of /tokenize. ``count``, ``max_model_len`` and ``token_strs`` are vLLM's."""

    tokens: list[int] | list[TokenPiece]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class Text(BaseModel):
    """The result of /detokenize; ``prompt`` is vLLM's name of the content."""

    content: str
    prompt: str


class Prompt(BaseModel):
    """The result of /apply-template."""

    prompt: str


class Slot(BaseModel):
    """One of the conversations that are answered side by side. ``is_processing`` of the first ones is true,
    as many as are being answered: which conversation a request gets is the engine's choice."""

    id: int
    n_ctx: int
    is_processing: bool


class Properties(BaseModel):
    """The result of /props, with the fields that llama.cpp's clients read."""

    default_generation_settings: Object
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    modalities: dict[str, bool]
    bos_token: str
    eos_token: str
    build_info: str
