"""Stock llama.cpp in a process of its own: the reference that all speed is compared to.

Stock is `llama_cpp.Llama` with its defaults and llama.cpp's own kernels. PASS_EDGE_KERNELS=0 selects these,
and is read once in a process. Its threads sleep between two requests, so it may run beside an engine that is
measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LibraryError
from .process_memory import resident_bytes

_CHILD = [sys.executable, "-c", f"import {__name__} as stock_llama; stock_llama._serve()"]


@dataclass(frozen=True)
class StockAnswer:
    """``ids``: the generated tokens, an end token included. ``prompt_seconds``: until the first of them.
    ``seconds``: from the first to the last."""

    ids: tuple[int, ...]
    prompt_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed. The first token belongs to the prompt; 0 if there was no other."""
        return (len(self.ids) - 1) / self.seconds if self.seconds else 0.0


class StockLlama:
    """A child process with a model. Close it, or use it in a ``with`` statement.

    Attributes: ``load_seconds``; ``resident``, the process's memory in bytes once a token was decoded.
    """

    def __init__(
        self, model: Path, *, threads: int, context_size: int, lookup: int = 0, seed: int | None = None
    ) -> None:
        """Load ``model``. ``lookup``: how many tokens its prompt lookup drafts, 0 for no drafts; ``seed``: by
        default llama_cpp.Llama's own. Raises LibraryError if llama_cpp.Llama cannot load it."""
        self._process = subprocess.Popen(
            _CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PASS_EDGE_KERNELS": "0"},
            start_new_session=True,  # Ctrl-C is for the parent only
        )
        try:
            loaded = self._ask(
                {
                    "model": str(model),
                    "threads": threads,
                    "context_size": context_size,
                    "lookup": lookup,
                    "seed": seed,
                }
            )
        except BaseException:
            self.close()
            raise
        self.load_seconds, self.resident = float(loaded["load_seconds"]), int(loaded["resident"])

    def answer(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        json_schema: str = "",
    ) -> StockAnswer:
        """Generate up to ``max_tokens`` tokens after ``prompt``, with an empty cache. ``json_schema``: what
        the text must match; empty is any text. Raises LibraryError."""
        request = {
            "prompt": list(map(int, prompt)),
            "max_tokens": max_tokens,
            "sampling": {"temp": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p},
            "json_schema": json_schema,
        }
        reply = self._ask(request)
        return StockAnswer(tuple(reply["ids"]), reply["prompt_seconds"], reply["seconds"])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``. Raises LibraryError."""
        return str(self._ask({"ids": list(ids)})["text"])

    def pass_seconds(self, depth: int, repeats: int = 16) -> float:
        """Return the time of the fastest of ``repeats`` passes over one token after ``depth`` tokens: other
        processes only add time. Raises LibraryError."""
        return float(self._ask({"depth": depth, "repeats": repeats})["seconds"])

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except (OSError, ValueError):  # the process died, or was closed
            line = ""
        if not line:
            raise LibraryError("llama_cpp.Llama's process ended")
        reply = json.loads(line)
        if "error" in reply:
            raise LibraryError(f"llama_cpp.Llama: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> StockLlama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -- the child process --------------------------------------------------------------------------------


def _serve() -> None:
    """Answer one JSON request a line. The first one loads the model."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like a reply
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, Any]
        try:
            if model is None:
                model = _LoadedModel(**request)
                reply = {"load_seconds": model.load_seconds, "resident": resident_bytes()}
            elif "prompt" in request:
                reply = model.answer(**request)
            elif "ids" in request:
                reply = {"text": model.detokenize(**request)}
            else:
                reply = {"seconds": model.pass_seconds(**request)}
        except Exception as error:  # the parent raises it
            reply = {"error": str(error)}
        print(json.dumps(reply), file=replies, flush=True)


class _LoadedModel:
    def __init__(self, model: str, threads: int, context_size: int, lookup: int, seed: int | None) -> None:
        from llama_cpp import LLAMA_DEFAULT_SEED, Llama
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        start = time.perf_counter()
        self._llama = Llama(
            model,
            n_ctx=context_size,
            n_threads=threads,
            n_threads_batch=threads,
            draft_model=LlamaPromptLookupDecoding(num_pred_tokens=lookup) if lookup else None,
            # a draft model needs every row of logits, but does not reserve memory for them
            logits_all=bool(lookup),
            seed=LLAMA_DEFAULT_SEED if seed is None else seed,
            verbose=False,
        )
        self.load_seconds = time.perf_counter() - start
        self._llama.eval([0])

    def answer(
        self, prompt: list[int], max_tokens: int, sampling: dict[str, Any], json_schema: str
    ) -> dict[str, Any]:
        import llama_cpp

        vocabulary = llama_cpp.llama_model_get_vocab(self._llama.model)
        if json_schema:
            sampling["grammar"] = llama_cpp.LlamaGrammar.from_json_schema(json_schema, verbose=False)
        self._llama.reset()
        ids: list[int] = []
        start = first = now = time.perf_counter()
        for token in self._llama.generate(prompt, **sampling):
            now = time.perf_counter()
            first = first if ids else now
            ids.append(token)
            if len(ids) == max_tokens or llama_cpp.llama_vocab_is_eog(vocabulary, token):
                break
        return {"ids": ids, "prompt_seconds": first - start, "seconds": now - first}

    def detokenize(self, ids: list[int]) -> str:
        return str(self._llama.detokenize(ids).decode(errors="replace"))

    def pass_seconds(self, depth: int, repeats: int) -> float:
        self._llama.reset()
        self._llama.eval([0] * depth)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._llama.eval([0])
            times.append(time.perf_counter() - start)
        return min(times)
