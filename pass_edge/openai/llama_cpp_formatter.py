"""Generated text in the form of llama.cpp's own endpoint, ``/completion``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pass_edge.generation import Generation
from pass_edge.native.vocabulary import Vocabulary
from pass_edge.sampling.logprobs import Logprob
from pass_edge.text_stream import stop_strings

from .formatters import Json, timings_of, token_logprob
from .requests import LlamaCppRequest
from .samplers import active_samplers


class LlamaCppFormatter:
    """Formats completions as llama.cpp's server does: one object for one text, a list for several."""

    def __init__(
        self, request: LlamaCppRequest, model: str, vocabulary: Vocabulary, prompts: Sequence[str], n: int
    ) -> None:
        """``prompts``: the texts that the model reads; each has ``n`` choices."""
        self._request = request
        self._model = model
        self._vocabulary = vocabulary
        self._prompts = [prompt for prompt in prompts for _ in range(n)]
        self._n_sent: dict[int, int] = {}  # of each choice: tokens in its chunks so far

    def first_chunks(self, index: int) -> list[Json]:
        """As ``TextFormatter.first_chunks``."""
        return []

    def text_chunks(self, index: int, generation: Generation, text: str, n_sent: int) -> list[Json]:
        """As ``TextFormatter.text_chunks``."""
        first = self._n_sent.get(index, 0)
        self._n_sent[index] = len(generation.ids)
        chunk = {**self._counts(index, generation), "content": text, "tokens": generation.ids[first:]}
        return [{**chunk, "stop": False, **self._probabilities(generation.logprobs[n_sent:])}]

    def last_chunks(self, index: int, generation: Generation, n_sent: int) -> list[Json]:
        """As ``TextFormatter.last_chunks``."""
        rest = {"content": "", "tokens": [], **self._probabilities(generation.logprobs[n_sent:])}
        return [self._chosen({**self._whole(index, generation), **rest})]

    def usage_chunk(self, usage: Json) -> Json:
        """As ``TextFormatter.usage_chunk``."""
        return {"stop": True, "usage": usage}

    def result(self, generations: Sequence[Generation], usage: Json) -> Any:
        """Return one object for one generation, a list of them for several."""
        results = [self._chosen(self._whole(i, generation)) for i, generation in enumerate(generations)]
        return results[0] if len(results) == 1 else results

    def _counts(self, index: int, generation: Generation) -> Json:
        evaluated = generation.stats.prompt_tokens
        return {"index": index, "tokens_predicted": len(generation.ids), "tokens_evaluated": evaluated}

    def _whole(self, index: int, generation: Generation) -> Json:
        is_cut = generation.finish_reason != "stop"
        return {
            **self._counts(index, generation),
            "content": generation.text,
            "tokens": generation.ids if self._request.return_tokens else [],
            "stop": True,
            "model": self._model,
            "generation_settings": self._settings(generation),
            "prompt": self._prompts[index],
            "has_new_line": "\n" in generation.text,
            "truncated": generation.finish_reason == "context",
            "stop_type": "limit" if is_cut else "word" if generation.stop_string else "eos",
            "stopping_word": generation.stop_string,
            "tokens_cached": generation.stats.reused_tokens,
            "timings": timings_of([generation]),
            **self._probabilities(generation.logprobs),
        }

    def _settings(self, generation: Generation) -> Json:
        request, sampling = self._request, generation.sampling
        biases = [
            {"token": token, "bias": None if math.isinf(bias) else bias}  # null is llama.cpp's -inf
            for token, bias in sampling.logit_bias.items()
        ]
        limit = -1 if request.token_limit is None else request.token_limit
        return {
            **asdict(sampling),
            "seed": generation.seed,
            "logit_bias": biases,
            "n_predict": limit,
            "max_tokens": limit,
            "stop": stop_strings(request.stop),
            "ignore_eos": request.ignore_eos,
            "stream": request.stream,
            "n_probs": request.logprobs or 0,
            "samplers": active_samplers(request.samplers),
        }

    def _probabilities(self, logprobs: Sequence[Logprob]) -> Json:
        if self._request.logprobs is None:
            return {}
        return {"completion_probabilities": [self._probability(each) for each in logprobs]}

    def _probability(self, chosen: Logprob) -> Json:
        top = [self._token(token, logprob) for token, logprob in chosen.top]
        return {**self._token(chosen.token, chosen.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> Json:
        return {"id": token, **token_logprob(self._vocabulary, token, logprob)}

    def _chosen(self, result: Json) -> Json:
        """The fields that ``response_fields`` names ("a/b" is the field b of a), or all."""
        if not self._request.response_fields:
            return result
        chosen = {}
        for name in self._request.response_fields:
            value: Any = result
            for part in name.split("/"):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                chosen[name] = value
        return chosen
