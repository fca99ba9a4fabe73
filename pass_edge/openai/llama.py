"""`Llama`, the class that code written for llama-cpp-python expects: ``from pass_edge import Llama``."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from inspect import Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from pass_edge.async_stream import in_a_thread
from pass_edge.engine import Engine
from pass_edge.native import llama_class
from pass_edge.native.context import Floats
from pass_edge.native.devices import default_threads
from pass_edge.native.embedder import Embedder
from pass_edge.native.errors import ContextFullError, SettingsError, UnsupportedError
from pass_edge.native.vocabulary import Text, Vocabulary
from pass_edge.sampling.constrained import sampler_for
from pass_edge.sampling.processed import processed
from pass_edge.sampling.sampler import Sampler
from pass_edge.settings import AUTO, Settings

from .answers import Answer
from .complete import biases_of, functions, refuse_unsupported, sampling_of, start
from .embeddings import embeddings_object
from .evaluation import Evaluation, LlamaState
from .formatters import Json
from .hub import download
from .llama_embeddings import checked_texts, embed, open_embedder
from .llama_parameters import (
    CHAT,
    COMPLETION,
    CONSTRUCTOR,
    DEFAULTS,
    GENERATE,
    REASONS,
    SAMPLE,
    STATED,
    bound,
    check_supported,
    handler_arguments,
    settings_of,
    takes,
    token_ids,
)
from .output_form import form_grammar
from .requests import RANDOM_SEED, ChatCompletionRequest, CompletionRequest

_RANDOM_SEEDS = (None, RANDOM_SEED, DEFAULTS["seed"])
_TEMPLATE = "chat_template.default"  # llama-cpp-python's name for the format that the model's file has


class Llama:
    """`llama_cpp.Llama`, run by a PaSS Edge engine (``engine``), or, with ``embedding=True``, by an
    ``embedder``.

    Parameters, methods and attributes mean what they mean there; docs/library.md lists those that are not
    supported, which raise SettingsError. ``lookahead`` and ``settings`` are the engine's own; ``settings``
    replaces all of llama-cpp-python's that concern the engine. Close it, or use it as a context manager. May
    be called from any thread, but ``eval``, ``sample`` and ``generate`` from one at a time.
    """

    @takes(CONSTRUCTOR)
    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        lookahead: Any = AUTO,
        settings: Settings | None = None,
        **llama_cpp_parameters: Any,
    ) -> None:
        """Raises SettingsError on parameters that are not supported, and the errors of ``Engine``."""
        path = Path(model_path)
        check_supported(llama_cpp_parameters, path)
        self._arguments = {"model_path": model_path, "lookahead": lookahead, "settings": settings}
        self._arguments |= llama_cpp_parameters
        given = {**DEFAULTS, **llama_cpp_parameters}
        if given["chat_format"]:
            llama_class.chat_handler(given["chat_format"])  # or it is unknown
        settings = settings or settings_of(given)
        self._loaded: Engine | Embedder
        if given["embedding"]:
            self.embedder = self._loaded = open_embedder(path, settings, given["pooling_type"])
        else:
            self.engine = self._loaded = Engine(path, lookahead=lookahead, settings=settings)
            self._evaluation = Evaluation(self.engine, keeps_scores=bool(given["logits_all"]))
        # Python frees a Llama that nobody uses any more; llama.cpp's memory must go with it
        weakref.finalize(self, self._loaded.close).atexit = False
        self.model_path = str(model_path)
        self.metadata = self._loaded.model.all_metadata()
        self.n_threads: int = settings.threads or default_threads()
        self.n_threads_batch: int = given["n_threads_batch"] or self.n_threads
        self.n_batch = min(self.n_ctx(), given["n_batch"])
        self.context_params = SimpleNamespace(
            n_ctx=self.n_ctx(),
            n_batch=self.n_batch,
            n_ubatch=min(self.n_batch, given["n_ubatch"]),
            n_threads=self.n_threads,
            n_threads_batch=self.n_threads_batch,
        )
        vars(self).update({name: given[name] for name in STATED})
        self.chat_format: str | None = given["chat_format"] or _TEMPLATE
        self.cache: Any = None
        self._seed_lock = threading.Lock()
        self.set_seed(given["seed"])

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str,
        additional_files: Sequence[str] | None = None,
        local_dir: str | Path | None = None,
        local_dir_use_symlinks: bool | str = "auto",
        cache_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> Llama:
        """Return the model ``filename`` (a name, or a glob) of a repository on the Hugging Face Hub, which is
        downloaded if it is not there; ``kwargs`` are the constructor's. ``local_dir_use_symlinks`` has no
        effect. Raises SettingsError if no file or several match, ModelError if the hub gives none."""
        files = [filename, *(additional_files or ())]
        path = download(repo_id, files, local_dir=local_dir, cache_dir=cache_dir)
        return cls(model_path=path, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in REASONS:
            raise UnsupportedError(f"Llama.{name} is not supported here: {REASONS[name]}")
        if "embedder" in vars(self):
            raise UnsupportedError(f"Llama(embedding=True) writes no text, so it has no {name}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # -- completions ----------------------------------------------------------------------------------

    @takes(COMPLETION)
    def create_completion(self, *args: Any, **kwargs: Any) -> Json | Iterator[Json]:
        """Complete a prompt. The parameters are ``CompletionRequest``'s, in llama-cpp-python's order.

        Returns OpenAI's result object or, with ``stream``, an iterator over its chunks. Raises SettingsError,
        ContextFullError.
        """
        return self._complete(CompletionRequest(**self._arguments_of(COMPLETION, args, kwargs)))

    __call__ = create_completion

    @takes(CHAT)
    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """Answer messages. The parameters are ``ChatCompletionRequest``'s, in llama-cpp-python's order.

        Returns and raises as ``create_completion``; also raises ModelError if the model's chat template
        refuses the messages. A ``chat_handler`` or ``chat_format`` answers with llama-cpp-python's function
        for it, which calls ``create_completion``.
        """
        if handler := self._chat_function():
            request = ChatCompletionRequest(**CHAT.bind(*args, **kwargs).arguments)
            return handler(llama=self, **handler_arguments(request))
        return self._complete(ChatCompletionRequest(**self._arguments_of(CHAT, args, kwargs)))

    def create_chat_completion_openai_v1(self, *args: Any, **kwargs: Any) -> Any:
        """``create_chat_completion``, with objects of the package openai: a ChatCompletion or, with
        ``stream``, an iterator over ChatCompletionChunks. Raises ImportError without that package."""
        try:
            from openai.types.chat import ChatCompletion, ChatCompletionChunk
        except ImportError:
            raise ImportError("create_chat_completion_openai_v1 needs openai: pip install openai") from None
        answer = self.create_chat_completion(*args, **kwargs)
        if isinstance(answer, dict):
            return ChatCompletion(**answer)
        return (ChatCompletionChunk(**chunk) for chunk in answer)

    @takes(COMPLETION)
    async def acreate_completion(self, *args: Any, **kwargs: Any) -> Json | AsyncIterator[Json]:
        """Await ``create_completion``; chunks are for ``async for``."""
        return await self._acomplete(CompletionRequest(**self._arguments_of(COMPLETION, args, kwargs)))

    @takes(CHAT)
    async def acreate_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """Await ``create_chat_completion``; chunks are for ``async for``."""
        if not self._chat_function():
            return await self._acomplete(ChatCompletionRequest(**self._arguments_of(CHAT, args, kwargs)))
        answer = await asyncio.to_thread(self.create_chat_completion, *args, **kwargs)
        return answer if isinstance(answer, dict) else in_a_thread(answer, lambda: None)

    def _arguments_of(self, parameters: Signature, args: Any, kwargs: Any) -> dict[str, Any]:
        return {"repeat_last_n": self.last_n_tokens_size, **parameters.bind(*args, **kwargs).arguments}

    def _chat_function(self) -> Callable[..., Any] | None:
        if self.chat_handler or self.chat_format in (None, _TEMPLATE):
            return self.chat_handler
        return llama_class.chat_handler(self.chat_format)

    def _complete(self, request: CompletionRequest | ChatCompletionRequest) -> Json | Iterator[Json]:
        answer = self._start(request)
        return self._chunks(answer) if request.stream else self._remembered(answer, answer.result())

    async def _acomplete(
        self, request: CompletionRequest | ChatCompletionRequest
    ) -> Json | AsyncIterator[Json]:
        answer = await asyncio.to_thread(self._start, request)
        return self._achunks(answer) if request.stream else self._remembered(answer, await answer.aresult())

    def _start(self, request: CompletionRequest | ChatCompletionRequest) -> Answer:
        if request.seed is None:
            request = replace(request, seed=self._next_seed())
        else:
            self.set_seed(request.seed)
        answer = start(self.engine, request)
        if self.cache:
            self._recall(answer.generations[0].conversation)
        self._evaluation.tokens = answer.generations[-1].conversation  # which grows with the answer
        return answer

    def _chunks(self, answer: Answer) -> Generator[Json, None, None]:
        """Yield the chunks, and hold this object meanwhile."""
        yield from answer
        self._remembered(answer, {})

    async def _achunks(self, answer: Answer) -> AsyncGenerator[Json, None]:
        async with aclosing(aiter(answer)) as chunks:
            async for chunk in chunks:
                yield chunk
        self._remembered(answer, {})

    # -- seeds and caches -----------------------------------------------------------------------------

    def set_seed(self, seed: int | None) -> None:
        """Begin a sequence of seeds: each completion without a seed of its own gets the next one. ``sample``
        and ``generate`` take ``seed`` itself. None and -1 are random."""
        self._seed = None if seed in _RANDOM_SEEDS else seed

    def _next_seed(self) -> int:
        with self._seed_lock:
            if self._seed is None:
                return RANDOM_SEED
            self._seed = random.Random(self._seed).randint(0, 2**32)  # as llama-cpp-python does
            return self._seed

    def set_cache(self, cache: Any) -> None:
        """Save the state of each completion in ``cache`` (a LlamaRAMCache, a LlamaDiskCache, or None), and
        load the one that shares most with a prompt, if that is more than the engine holds."""
        self.cache = cache

    def _recall(self, prompt: Sequence[int]) -> None:
        try:
            state = self.cache[prompt]
        except KeyError:
            return
        held = max(session.shared_with(prompt) for session in self.engine.sessions)
        if llama_class.longest_token_prefix(state.input_ids.tolist(), prompt[:-1]) > held:
            seed = self._seed
            self.load_state(state)
            self._seed = seed

    def _remembered(self, answer: Answer, result: Json) -> Json:
        """Save the state after ``answer`` if there is a cache; return ``result``."""
        if self.cache:
            self.cache[answer.generations[-1].conversation] = self.save_state()
        return result

    def save_state(self) -> LlamaState:
        """Return the tokens that were evaluated last, with their KV cache, and the seed."""
        return self._evaluation.save(self._seed)

    def load_state(self, state: LlamaState) -> None:
        """Go back to where ``save_state`` was called. Raises SessionError if that was with another model."""
        self._evaluation.load(state)
        self._seed = state.seed

    # -- token by token -------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the tokens that were evaluated. The KV cache keeps what it can still use."""
        self._evaluation.tokens = []

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate ``tokens`` after those that were evaluated before. Raises ContextFullError."""
        self._evaluation.extend(token_ids(tokens))

    @takes(SAMPLE)
    def sample(self, *args: Any, **kwargs: Any) -> int:
        """Choose the next token, or that after the token at ``idx``; it is not evaluated yet. The same seed
        gives the token that a completion would have there."""
        arguments = bound(SAMPLE, args, kwargs)
        index = arguments.pop("idx")
        length = self.n_tokens if index is None else index + 1
        return self._evaluation.sample(self._sampler(arguments, length), index)

    @takes(GENERATE)
    def generate(self, *args: Any, **kwargs: Any) -> Generator[int, Sequence[int] | None, None]:
        """Yield tokens after a prompt, past end tokens too; with ``reset`` False, after the evaluated tokens
        and the prompt. Tokens that are sent to the generator come after the one that it yielded last."""
        arguments = bound(GENERATE, args, kwargs)
        tokens, is_reset = token_ids(arguments.pop("tokens")), arguments.pop("reset")
        criteria = functions(arguments.pop("stopping_criteria"), "stopping_criteria")
        tokens = tokens if is_reset else [*self._evaluation.tokens, *tokens]
        yield from self._evaluation.generate(tokens, self._sampler(arguments, len(tokens)), criteria)

    def _sampler(self, arguments: dict[str, Any], start: int) -> Sampler:
        """The sampler of ``sample``'s parameters for the tokens after the first ``start``."""
        arguments.pop("penalize_nl")  # llama-cpp-python ignores it too
        arguments |= {"temperature": arguments.pop("temp"), "repeat_last_n": self.last_n_tokens_size}
        request = CompletionRequest((), seed=self._seed, **arguments)
        refuse_unsupported(request)
        vocabulary, grammar = self.engine.model.vocabulary, form_grammar(request)
        sampling = sampling_of(request, grammar, biases=biases_of(request, vocabulary, grammar))
        sampler = sampler_for(sampling, vocabulary, start)
        return processed(sampler, functions(request.logits_processor, "logits_processor"))

    @property
    def n_tokens(self) -> int:
        """The number of evaluated tokens; after a completion, of its prompt and its text. Setting it forgets
        the tokens behind."""
        return len(self._evaluation.tokens)

    @n_tokens.setter
    def n_tokens(self, count: int) -> None:
        self._evaluation.tokens = self._evaluation.tokens[:count]

    @property
    def input_ids(self) -> npt.NDArray[np.intc]:
        """The evaluated tokens, (n_tokens,)."""
        return np.array(self._evaluation.tokens, np.intc)

    _input_ids = input_ids

    @property
    def scores(self) -> Floats:
        """The logits after each evaluated token, (n_ctx, n_vocab) float32; rows from ``n_tokens`` on mean
        nothing. Needs ``logits_all``, and takes a forward pass for each token that was not the last of an
        ``eval``."""
        return self._evaluation.scores()

    @property
    def _scores(self) -> Floats:
        return self.scores[: self.n_tokens]

    @property
    def eval_tokens(self) -> deque[int]:
        """The evaluated tokens."""
        return deque(self._evaluation.tokens, maxlen=self.n_ctx())

    @property
    def eval_logits(self) -> deque[list[float]]:
        """``scores`` of the evaluated tokens."""
        return deque(self._scores.tolist(), maxlen=self.n_ctx())

    logits_to_logprobs = staticmethod(llama_class.logits_to_logprobs)
    longest_token_prefix = staticmethod(llama_class.longest_token_prefix)

    # -- embeddings -----------------------------------------------------------------------------------

    def embed(
        self,
        input: str | Sequence[str],
        normalize: bool = False,
        truncate: bool = True,
        return_count: bool = False,
    ) -> Any:
        """Return the vector of ``input``, or a list of vectors if it is a list; with ``return_count``, also
        the number of tokens. ``normalize``: to the length 1; ``truncate``: leave out the tokens of a text
        after the first ``n_batch``. Needs ``embedding=True``. Raises SettingsError, ContextFullError."""
        if "embedder" not in vars(self):
            raise SettingsError("embeddings need Llama(…, embedding=True) and the file of an embedding model")
        texts = [self.tokenize(text)[: self.n_batch if truncate else None] for text in checked_texts(input)]
        if longest := max((len(text) for text in texts if len(text) > self.n_batch), default=0):
            raise ContextFullError(f"a text has {longest} tokens, and n_batch is {self.n_batch}")
        vectors = embed(self.embedder, texts, normalize=normalize)
        result = vectors[0] if isinstance(input, str) else vectors
        return (result, sum(map(len, texts))) if return_count else result

    def create_embedding(self, input: str | Sequence[str], model: str | None = None) -> Json:
        """Return the vectors of ``input``, as ``embed`` makes them, in OpenAI's result object."""
        vectors, n_tokens = self.embed(checked_texts(input), return_count=True)
        return embeddings_object(vectors, model or self.model_path, n_tokens)

    def pooling_type(self) -> int:
        """Return llama.cpp's number of the way in which the vectors of tokens become one; 0 for none."""
        return self.embedder.pooling_type if "embedder" in vars(self) else 0

    # -- the vocabulary -------------------------------------------------------------------------------

    @property
    def _vocabulary(self) -> Vocabulary:
        self._loaded.check()
        return self._loaded.model.vocabulary

    def tokenize(self, text: Text, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the token ids of ``text``, usually UTF-8; ``add_bos``: begin with BOS, if the model wants
        one."""
        if not isinstance(text, Text):
            raise SettingsError(f"tokenize is given {text!r:.60}; it takes UTF-8 bytes, or text")
        return self._vocabulary.tokenize(text, add_special=add_bos, parse_special=special).tolist()

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """Return the text of ``tokens`` in UTF-8. After a BOS token, a leading space is left out, because
        tokenizers of that kind add one. ``prev_tokens`` have no effect, as with llama.cpp's own tokenizer."""
        vocabulary, tokens = self._vocabulary, token_ids(tokens)
        text = b"".join(vocabulary.piece(token, special=special) for token in tokens)
        begins = bool(tokens) and tokens[0] == vocabulary.bos
        return text[1:] if begins and text[:1] == b" " else text

    def tokenizer(self) -> Any:
        """Return a llama_cpp.LlamaTokenizer over this object."""
        return llama_class.tokenizer(self)

    @property
    def tokenizer_(self) -> Any:
        """``tokenizer()``."""
        return self.tokenizer()

    @property
    def model(self) -> int:
        """llama.cpp's pointer to the model, to read its vocabulary; valid until ``close``."""
        return self._loaded.model.handle

    def n_ctx(self) -> int:
        """Return the context size of a conversation in tokens."""
        return self._loaded.context_size

    def n_embd(self) -> int:
        """Return the width of the model's embeddings."""
        return self._loaded.model.n_embd

    def n_vocab(self) -> int:
        """Return the size of the vocabulary."""
        return self.engine.base.n_vocab if "engine" in vars(self) else self._loaded.model.n_vocab

    def token_bos(self) -> int:
        """Return the token that begins a text; -1 if there is none."""
        return self._loaded.model.vocabulary.bos

    def token_eos(self) -> int:
        """Return the token that ends a text; -1 if there is none."""
        return self._loaded.model.vocabulary.eos

    def token_nl(self) -> int:
        """Return the token of a line break; -1 if there is none."""
        return self._loaded.model.vocabulary.newline

    # -- the rest -------------------------------------------------------------------------------------

    def close(self) -> None:
        """As ``Engine.close``."""
        self._loaded.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self._arguments, "seed": self._seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
