"""Fields of requests that are no parameters here: hints, which are passed over, and names that are refused.

OpenAI's, llama.cpp's and vLLM's clients send many fields, often as null or at a value that changes nothing.
A hint cannot change the text, so it is accepted; a response header lists the hints that were passed over.
What would change the text is an error, because a client could not rely on a field that is ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

IGNORED_HEADER = "X-Ignored-Fields"

HINTS = frozenset(
    {
        # OpenAI: who asks, how it is billed, kept or cached, and what the answer may look like
        *("user", "safety_identifier", "metadata", "store", "service_tier", "moderation"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "prediction", "verbosity"),
        "max_tool_calls",  # it counts tools of the server, which has none
        # llama.cpp: the KV cache, which is always used and changes no text here; and its drafts
        *("cache_prompt", "id_slot", "slot_id", "n_keep", "n_discard", "n_cache_reuse", "sse_ping_interval"),
        "t_max_prompt_ms",  # llama.cpp passes it over, too
        *("return_tokens", "speculative.n_max", "speculative.n_min", "speculative.p_min", "speculative.type"),
        # llama.cpp: settings of samplers that are off
        *("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        *("xtc_threshold", "dynatemp_exponent", "mirostat_tau", "mirostat_eta", "adaptive_decay"),
        # vLLM: scheduling and caching
        *("priority", "request_id", "cache_salt", "guided_decoding_backend"),
    }
)

# the values, if any, at which a field that is not supported changes nothing
NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    # OpenAI
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("none",),
    "best_of": (1,),
    # llama.cpp
    "typical_p": (1,),
    "tfs_z": (1,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "top_n_sigma": (-1, 0),
    "adaptive_target": (-1,),
    "min_keep": (0,),
    "n_cmpl": (1,),
    "response_fields": ([],),
    "post_sampling_probs": (False,),
    "backend_sampling": (False,),
    "image_data": ([],),
    "penalize_nl": (False,),
    "return_progress": (False,),
    "lora": ([],),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "preserved_tokens": ([],),
    "reasoning_format": ("auto", "deepseek"),
    "reasoning_in_content": (False,),
    "thinking_forced_open": (False,),
    "reasoning_budget_tokens": (-1,),
    "parse_tool_calls": (True,),
    "chat_template": (),
    # vLLM
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "prompt_embeds": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "include_reasoning": (True,),
    "echo": (False,),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "logits_processors": ([],),
    "kv_transfer_params": (),
    "vllm_xargs": ({},),
}
_INSTEAD = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "reasoning_budget_tokens": "use thinking_budget_tokens",
    "repetition_penalty": "use repeat_penalty",
    "bad_words": "use logit_bias",
    "structural_tag": "use response_format",
}


def known_fields(data: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the fields of a request's body that are among the ``known`` parameters and not null.

    Raises PydanticCustomError, whose context names the ``field``, for a field that is neither a hint nor at a
    value that changes nothing.
    """
    given = {name: value for name, value in data.items() if value is not None}
    for name, value in given.items():
        if name not in known and name not in HINTS and value not in NOT_SUPPORTED.get(name, ()):
            raise PydanticCustomError(
                "unknown_field", "{reason}", {"reason": _complaint(name, known), "field": encodable(name)}
            )
    return {name: value for name, value in given.items() if name in known}


def encodable(text: str) -> str:
    """Return ``text`` with U+FFFD for lone surrogates, which JSON may have and pydantic cannot report."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def ignored_fields(data: Any, known: Collection[str] = ()) -> list[str]:
    """Return the hints in a request's body that are not among its ``known`` fields."""
    given = {name for name, value in data.items() if value is not None} if isinstance(data, dict) else set()
    return sorted(given & HINTS - {*known})


def _complaint(name: str, known: Collection[str]) -> str:
    if name in NOT_SUPPORTED:
        idle = " or ".join(map(repr, NOT_SUPPORTED[name]))
        instead = _INSTEAD.get(name, f"leave it out{', or send ' * bool(idle)}{idle}")
        return f"this field is not supported here; {instead}"
    nearest = difflib.get_close_matches(name, {*known, *HINTS, *NOT_SUPPORTED}, n=1)
    return "there is no such field" + (f"; did you mean {nearest[0]}?" if nearest else "")
