"""Biases of tokens, in the forms of OpenAI (by token id) and of llama.cpp (pairs; texts; false bans)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Vocabulary

from .requests import LogitBias


def token_biases(logit_bias: LogitBias | None, vocabulary: Vocabulary) -> dict[int, float]:
    """Return the bias of each token; -inf bans it. A text stands for each of its tokens, and the biases of a
    token add up. In a mapping, whose keys JSON makes strings, digits are a token id. Raises SettingsError."""
    is_mapping = isinstance(logit_bias, Mapping)
    pairs: Any = logit_bias.items() if isinstance(logit_bias, Mapping) else logit_bias or ()
    biases: dict[int, float] = {}
    for entry in pairs:
        try:
            key, bias = entry
        except (TypeError, ValueError):
            raise SettingsError(f"the logit bias {entry!r} is no pair of a token and its bias") from None
        for token in _tokens(key, vocabulary, digits_are_id=is_mapping):
            biases[token] = biases.get(token, 0.0) + _bias(bias)
    return biases


def _tokens(key: Any, vocabulary: Vocabulary, *, digits_are_id: bool) -> Iterable[int]:
    if isinstance(key, str) and not (digits_are_id and key.isascii() and key.isdigit()):
        return dict.fromkeys(vocabulary.tokenize(key).tolist())
    try:
        return (int(key),)
    except (TypeError, ValueError):
        raise SettingsError(f"the logit bias of {key!r} is neither of a token id nor of a text") from None


def _bias(bias: Any) -> float:
    if bias is False:
        return -math.inf
    if isinstance(bias, int | float) and bias is not True:
        return float(bias)
    raise SettingsError(f"a logit bias is {bias!r}; it must be a number, or false to ban the token")
