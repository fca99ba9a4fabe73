"""llama.cpp as anyone gets it, in a process of its own: what all speed is compared to.

Stock is `llama_cpp.Llama` with its defaults and llama.cpp's own kernels (PASS_EDGE_KERNELS=0, which is read
once in a process). Its threads sleep between two requests, so it may live beside an engine that is measured.
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

_CHILD = [sys.executable, "-c", f"import {__name__} as stock; stock._serve()"]


@dataclass(frozen=True)
class StockAnswer:
    """``ids``: at most as many as were asked for; ``prompt_seconds``: until the first of them was there;
    ``seconds``: from then on until the last."""

    ids: tuple[int, ...]
    prompt_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """While it decoded, the first token being the prompt's; 0 where there was no other."""
        return (len(self.ids) - 1) / self.seconds if self.seconds else 0.0


class StockLlama:
    """A child process with a model. Close it, or use it in a ``with`` statement.

    Attributes: ``load_seconds``, and ``resident``, the bytes that the model takes in memory once a token was
    decoded.
    """

    def __init__(self, model: Path, *, threads: int, context_size: int) -> None:
        """Load ``model``. Raises LibraryError where llama_cpp.Llama cannot."""
        self._process = subprocess.Popen(
            _CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PASS_EDGE_KERNELS": "0"},
            start_new_session=True,  # Ctrl-C is its parent's
        )
        try:
            told = self._ask({"model": str(model), "threads": threads, "context_size": context_size})
        except BaseException:
            self.close()
            raise
        self.load_seconds, self.resident = float(told["load_seconds"]), int(told["resident"])

    def answer(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
    ) -> StockAnswer:
        """Up to ``max_tokens`` ids behind ``prompt``, which is read anew. Raises LibraryError."""
        sampling = {"temp": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        told = self._ask({"prompt": list(map(int, prompt)), "max_tokens": max_tokens, "sampling": sampling})
        return StockAnswer(tuple(told["ids"]), told["prompt_seconds"], told["seconds"])

    def pass_seconds(self, depth: int, repeats: int = 12) -> float:
        """A pass over one token behind ``depth`` tokens: the median."""
        return float(self._ask({"depth": depth, "repeats": repeats})["seconds"])

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            reply = self._process.stdout.readline()
        except (OSError, ValueError):  # the process died, or was closed
            reply = ""
        if not reply:
            raise LibraryError("llama_cpp.Llama's process ended")
        told = json.loads(reply)
        if "error" in told:
            raise LibraryError(f"llama_cpp.Llama: {told['error']}")
        return told

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> StockLlama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -- the child ----------------------------------------------------------------------------------------


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply
    peer = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if peer is None:
                peer = _Peer(**request)
                told: dict[str, Any] = {"load_seconds": peer.load_seconds, "resident": resident_bytes()}
            elif "prompt" in request:
                told = peer.answer(**request)
            else:
                told = {"seconds": peer.pass_seconds(**request)}
        except Exception as error:  # told to whoever asked
            told = {"error": str(error)}
        print(json.dumps(told), file=replies, flush=True)


class _Peer:
    def __init__(self, model: str, threads: int, context_size: int) -> None:
        from llama_cpp import Llama

        began = time.perf_counter()
        self._llama = Llama(
            model, n_ctx=context_size, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self.load_seconds = time.perf_counter() - began
        self._llama.eval([0])

    def answer(self, prompt: list[int], max_tokens: int, sampling: dict[str, float]) -> dict[str, Any]:
        import llama_cpp

        vocabulary = llama_cpp.llama_model_get_vocab(self._llama.model)
        self._llama.reset()
        ids: list[int] = []
        began = first = now = time.perf_counter()
        for token in self._llama.generate(prompt, **sampling):
            now = time.perf_counter()
            first = first if ids else now
            ids.append(token)
            if len(ids) == max_tokens or llama_cpp.llama_vocab_is_eog(vocabulary, token):
                break
        return {"ids": ids, "prompt_seconds": first - began, "seconds": now - first}

    def pass_seconds(self, depth: int, repeats: int) -> float:
        self._llama.reset()
        self._llama.eval([0] * depth)
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            self._llama.eval([0])
            times.append(time.perf_counter() - began)
        return sorted(times)[repeats // 2]


def resident_bytes() -> int:
    """What this process takes in memory, mapped files included; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
