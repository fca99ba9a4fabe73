"""`Llama`, the class that code written for llama-cpp-python expects: ``from pass_edge import Llama``."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pass_edge.engine import Engine
from pass_edge.native.errors import SettingsError
from pass_edge.native.llama_class import constructor_defaults, parameter_names
from pass_edge.settings import AUTO, Settings

from .complete import acomplete, complete
from .formatters import Json
from .requests import RANDOM_SEED, ChatCompletionRequest, CompletionRequest

# parameters of `llama_cpp.Llama` that change nothing here: the engine does as they ask, or decides by itself
_WITHOUT_EFFECT = (
    "verbose", "n_batch", "n_ubatch", "n_threads_batch", "use_mmap", "logits_all", "flash_attn",
    "offload_kqv", "op_offload", "swa_full", "no_perf", "last_n_tokens_size", "numa",
    "n_parts", "f16_kv",  # LangChain passes these, and `llama_cpp.Llama` itself ignores them by now
)  # fmt: skip
_DEFAULT_SEED = 0xFFFFFFFF  # `llama.h`, LLAMA_DEFAULT_SEED: a random seed

RequestType = type[CompletionRequest] | type[ChatCompletionRequest]
Method = TypeVar("Method", bound=Callable[..., Any])


def _signature(request_type: RequestType, method: str) -> inspect.Signature:
    """Return ``request_type``'s parameters in the order of llama-cpp-python's ``method``; ours come last."""
    ours = inspect.signature(request_type).parameters
    names = [*filter(ours.__contains__, parameter_names(method)), *ours]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([ours[name].replace(kind=positional) for name in dict.fromkeys(names)])


_SIGNATURES: dict[RequestType, inspect.Signature] = {
    CompletionRequest: _signature(CompletionRequest, "create_completion"),
    ChatCompletionRequest: _signature(ChatCompletionRequest, "create_chat_completion"),
}


def _with_parameters_of(request_type: RequestType) -> Callable[[Method], Method]:
    """Let ``help`` and editors show a method's parameters, which ``_SIGNATURES`` binds."""

    def decorate(method: Method) -> Method:
        receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = _SIGNATURES[request_type].parameters.values()
        method.__signature__ = inspect.Signature([receiver, *parameters])  # type: ignore[attr-defined]
        return method

    return decorate


class Llama:
    """The part of ``llama_cpp.Llama`` that generates text, run by a PaSS Edge engine (``engine``).

    ``model_path``, ``n_ctx``, ``n_gpu_layers``, ``n_threads`` and ``seed`` mean what they mean there.
    ``lookahead`` and ``settings`` are the engine's own; ``settings`` replaces all but ``seed``. Close it, or
    use it as a context manager. May be called from any thread.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_gpu_layers: int = 0,
        n_ctx: int = 512,
        n_threads: int | None = None,
        seed: int | None = None,
        lookahead: Any = AUTO,
        settings: Settings | None = None,
        **llama_cpp_parameters: object,
    ) -> None:
        """Raises SettingsError on parameters that are not supported, and the errors of ``Engine``."""
        defaults = constructor_defaults()
        unsupported = sorted(
            name
            for name, value in llama_cpp_parameters.items()
            if name not in _WITHOUT_EFFECT and (name not in defaults or value != defaults[name])
        )
        if unsupported:
            raise SettingsError(f"not supported here: {', '.join(unsupported)}")
        settings = settings or Settings(context_size=n_ctx, gpu_layers=n_gpu_layers, threads=n_threads)
        self.engine = Engine(model_path, lookahead=lookahead, settings=settings)
        self.model_path = model_path
        self._seed = RANDOM_SEED if seed in (None, _DEFAULT_SEED) else seed

    @_with_parameters_of(CompletionRequest)
    def create_completion(self, *args: Any, **kwargs: Any) -> Json | Iterator[Json]:
        """Complete a prompt. The parameters are ``CompletionRequest``'s, in llama-cpp-python's order.

        Returns OpenAI's result object or, with ``stream``, an iterator over its chunks. Raises SettingsError,
        ContextFullError.
        """
        return complete(self.engine, self._request(CompletionRequest, args, kwargs))

    __call__ = create_completion

    @_with_parameters_of(ChatCompletionRequest)
    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Json | Iterator[Json]:
        """Answer messages. The parameters are ``ChatCompletionRequest``'s, in llama-cpp-python's order.

        Returns and raises as ``create_completion``; also raises ModelError if the model's chat template
        refuses the messages.
        """
        return complete(self.engine, self._request(ChatCompletionRequest, args, kwargs))

    @_with_parameters_of(CompletionRequest)
    async def acreate_completion(self, *args: Any, **kwargs: Any) -> Json | AsyncIterator[Json]:
        """Await ``create_completion``; chunks are for ``async for``."""
        return await acomplete(self.engine, self._request(CompletionRequest, args, kwargs))

    @_with_parameters_of(ChatCompletionRequest)
    async def acreate_chat_completion(self, *args: Any, **kwargs: Any) -> Json | AsyncIterator[Json]:
        """Await ``create_chat_completion``; chunks are for ``async for``."""
        return await acomplete(self.engine, self._request(ChatCompletionRequest, args, kwargs))

    def _request(self, request_type: RequestType, args: Any, kwargs: Any) -> Any:
        request = request_type(**_SIGNATURES[request_type].bind(*args, **kwargs).arguments)
        return request if request.seed is not None else replace(request, seed=self._seed)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the token ids of UTF-8 ``text``; ``add_bos``: begin with BOS, if the model wants one."""
        self.engine.check()
        vocabulary = self.engine.model.vocabulary
        return vocabulary.tokenize(text.decode(), add_special=add_bos, parse_special=special).tolist()

    def detokenize(self, tokens: Sequence[int], *_: object, special: bool = False) -> bytes:
        """Return the text of ``tokens`` in UTF-8."""
        self.engine.check()
        return b"".join(self.engine.model.vocabulary.piece(token, special=special) for token in tokens)

    def n_ctx(self) -> int:
        """Return the context size of a conversation in tokens."""
        return self.engine.context_size

    def n_vocab(self) -> int:
        """Return the size of the vocabulary."""
        return self.engine.base.n_vocab

    def token_bos(self) -> int:
        """Return the token that begins a text; -1 if there is none."""
        return self.engine.model.vocabulary.bos

    def token_eos(self) -> int:
        """Return the token that ends a text; -1 if there is none."""
        return self.engine.model.vocabulary.eos

    def close(self) -> None:
        """As ``Engine.close``."""
        self.engine.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
