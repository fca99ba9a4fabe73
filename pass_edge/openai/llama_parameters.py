"""Parameters and names of `llama_cpp.Llama`: what becomes of them here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pass_edge.native import llama_class
from pass_edge.native.errors import SettingsError
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.library import GGML_TYPES
from pass_edge.native.vocabulary import Text
from pass_edge.settings import Settings
from pass_edge.text_stream import stop_strings

from .requests import ChatCompletionRequest, CompletionRequest

Method = TypeVar("Method", bound=Callable[..., Any])

# -- the constructor -------------------------------------------------------------------------------------

DEFAULTS = llama_class.constructor_defaults()
"""The constructor's optional parameters, with llama-cpp-python's defaults."""
SUPPORTED = {
    *("n_ctx", "n_gpu_layers", "n_threads", "seed", "type_k", "type_v", "logits_all"),
    *("chat_format", "chat_handler", "verbose", "embedding", "last_n_tokens_size"),
}
WITHOUT_EFFECT = {
    # the engine does as these ask, or decides by itself
    *("n_batch", "n_ubatch", "n_threads_batch", "use_mmap", "use_mlock", "flash_attn", "offload_kqv"),
    *("op_offload", "swa_full", "no_perf", "numa", "draft_model", "vocab_only", "pooling_type"),
    # llama-cpp-python ignores these by now
    *("n_parts", "f16_kv", "low_vram", "n_gqa", "mul_mat_q"),
}
"""Parameters that are accepted whatever their value, because none of them changes the text."""
STATED = {
    *("lora_base", "lora_path", "lora_scale", "kv_overrides", "spm_infill", "tensor_split", "draft_model"),
    *("numa", "last_n_tokens_size", "verbose", "chat_handler"),
}
"""Parameters that are attributes, too."""

_POINTERS = "the engine alone may use llama.cpp's objects; eval, sample, generate and scores work on tokens"
_LORA = "merge the adapter into the model"
REASONS = {
    **dict.fromkeys(("ctx", "model_params", "_ctx", "_model", "_batch"), _POINTERS),
    **dict.fromkeys(("lora_base", "lora_path", "lora_scale"), _LORA),
    "tokenizer": "text is tokenized by the model's own tokenizer",
}
"""Why parameters and attributes are not supported: all attributes that `Llama` lacks, and some parameters."""


def check_supported(given: Mapping[str, Any], path: str | Path) -> None:
    """Raise SettingsError if a constructor argument would change what the model in ``path`` does, and is not
    supported."""
    unsupported = sorted(
        f"{name} ({REASONS[name]})" if name in REASONS else name
        for name, value in given.items()
        if name not in SUPPORTED | WITHOUT_EFFECT
        and value != DEFAULTS.get(name)
        and not _is_the_models_own(name, value, path)
    )
    if unsupported:
        raise SettingsError(f"not supported here: {', '.join(unsupported)}")


def _is_the_models_own(name: str, value: Any, path: str | Path) -> bool:
    """Return whether ``name`` is a rope setting that the model has anyway. LangChain always gives some."""
    if name not in ("rope_freq_base", "rope_freq_scale"):
        return False
    with GgufFile(path) as file:
        rope = f"{file.get('general.architecture')}.rope"
        if name == "rope_freq_base":
            return bool(value == (file.get(f"{rope}.freq_base") or 10000.0))
        return value == 1.0 and not (file.get(f"{rope}.scaling.factor") or file.get(f"{rope}.scale_linear"))


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the engine's settings that the constructor's arguments mean. Raises SettingsError."""
    draft_model = given["draft_model"]  # llama-cpp-python takes objects that draft, never a file
    return Settings(
        draft_model=draft_model if isinstance(draft_model, str | Path) else None,
        context_size=given["n_ctx"],
        gpu_layers=given["n_gpu_layers"],
        threads=given["n_threads"],
        cache_type_k=_cache_type(given["type_k"]),
        cache_type_v=_cache_type(given["type_v"]),
    )


def _cache_type(code: int | None) -> str | None:
    if code is None:
        return None
    names = {number: name for name, number in GGML_TYPES.items()}
    if code not in names:
        known = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
        raise SettingsError(f"unknown KV cache type {code}; known are {known}")
    return names[code]


# -- methods ---------------------------------------------------------------------------------------------


def _request_signature(
    request_type: type[CompletionRequest] | type[ChatCompletionRequest], method: str
) -> inspect.Signature:
    """Return ``request_type``'s parameters in the order of llama-cpp-python's ``method``; ours come last."""
    ours = inspect.signature(request_type).parameters
    names = [*filter(ours.__contains__, llama_class.signature(method).parameters), *ours]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([ours[name].replace(kind=positional) for name in dict.fromkeys(names)])


def _constructor_signature() -> inspect.Signature:
    """Return llama-cpp-python's parameters, and ours before its last, which takes any others."""
    *theirs, others = llama_class.signature("__init__").parameters.values()
    ours = (("lookahead", "auto"), ("settings", None))
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([*theirs, *(inspect.Parameter(n, keyword, default=v) for n, v in ours), others])


CONSTRUCTOR = _constructor_signature()
COMPLETION = _request_signature(CompletionRequest, "create_completion")
CHAT = _request_signature(ChatCompletionRequest, "create_chat_completion")
SAMPLE, GENERATE = llama_class.signature("sample"), llama_class.signature("generate")


def takes(parameters: inspect.Signature) -> Callable[[Method], Method]:
    """Let ``help`` and editors show a method's parameters, which it binds itself."""

    def decorate(method: Method) -> Method:
        receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        shown = inspect.Signature([receiver, *parameters.parameters.values()])
        method.__signature__ = shown  # type: ignore[attr-defined]
        return method

    return decorate


def bound(parameters: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments by name, with defaults. Raises TypeError as a call would."""
    arguments = parameters.bind(*args, **kwargs)
    arguments.apply_defaults()
    return arguments.arguments


def handler_arguments(request: ChatCompletionRequest) -> dict[str, Any]:
    """Return the parameters of ``request`` that llama-cpp-python's chat handlers take. Raises SettingsError
    on others."""
    theirs = llama_class.signature("create_chat_completion").parameters
    for each in fields(request):
        if each.name not in theirs and getattr(request, each.name) != each.default:
            raise SettingsError(f"{each.name} is not supported with a chat_format or chat_handler")
    given = {name: getattr(request, name) for name in theirs}
    return given | {"stop": stop_strings(request.stop)}


def token_ids(tokens: Sequence[int]) -> list[int]:
    """Return ``tokens`` as a list. Raises SettingsError if they are text."""
    if isinstance(tokens, Text):
        raise SettingsError(f"the tokens are {tokens!r:.60}; they must be token ids (tokenize makes them)")
    return [int(token) for token in tokens]
