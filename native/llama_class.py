"""llama-cpp-python's class `Llama`, and what belongs to it, for code that was written for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from llama_cpp import Llama, LlamaTokenizer
from llama_cpp.llama_chat_format import (
    LlamaChatCompletionHandlerNotFoundException,
    LlamaChatCompletionHandlerRegistry,
    get_chat_completion_handler,
)

from .errors import SettingsError

logits_to_logprobs, longest_token_prefix = Llama.logits_to_logprobs, Llama.longest_token_prefix


def constructor_defaults() -> dict[str, Any]:
    """Return the names and defaults of the optional parameters of `llama_cpp.Llama`."""
    parameters = inspect.signature(Llama.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def signature(method: str) -> inspect.Signature:
    """Return the signature of ``method`` of `llama_cpp.Llama`, without ``self`` and annotations."""
    _, *parameters = inspect.signature(getattr(Llama, method)).parameters.values()
    return inspect.Signature([each.replace(annotation=each.empty) for each in parameters])


def chat_handler(chat_format: str) -> Callable[..., Any]:
    """Return llama-cpp-python's function for chats in ``chat_format``: its, or one that was registered with
    it. It is given a ``llama``, whose ``tokenize`` and ``create_completion`` it calls. Raises
    SettingsError."""
    try:
        return get_chat_completion_handler(chat_format)
    except LlamaChatCompletionHandlerNotFoundException:
        known = ", ".join(sorted(LlamaChatCompletionHandlerRegistry()._chat_handlers))
        raise SettingsError(f"unknown chat_format {chat_format!r}; known are {known}") from None


def tokenizer(llama: Any) -> LlamaTokenizer:
    """Return llama-cpp-python's tokenizer over ``tokenize`` and ``detokenize`` of ``llama``."""
    return LlamaTokenizer(SimpleNamespace(_model=llama))
