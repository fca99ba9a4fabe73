"""llama.cpp's grammar engine: which tokens may come next; and JSON schemas converted to grammars."""

from __future__ import annotations

import ctypes
import json
import re
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp.llama_grammar import JSON_GBNF, LlamaGrammar, json_schema_to_gbnf

from .errors import ModelError, SettingsError
from .library import llama
from .vocabulary import Vocabulary

__all__ = ["JSON_GBNF", "Grammar", "LlamaGrammar", "schema_grammar"]

Bools = npt.NDArray[np.bool_]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_MAX_DEPTH = 200  # nested brackets: llama.cpp parses them recursively, and crashes at tens of thousands
_MAX_LENGTH = 1 << 20
_NO_BRACKETS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)


class Grammar:
    """The state of one text under a GBNF grammar. Only ``accept`` advances it."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        """``text``: GBNF with a rule ``root``. Raises SettingsError if llama.cpp cannot parse it, ModelError
        if the model has no tokenizer."""
        if not vocabulary.has_text:
            raise ModelError("this model has no tokenizer, so a grammar cannot be applied to its tokens")
        _check_size(text)
        handle = llama.llama_sampler_init_grammar(vocabulary.handle, text.encode(), b"root")
        if not handle:
            raise SettingsError("llama.cpp cannot read this grammar; its reason is on standard error")
        weakref.finalize(self, llama.llama_sampler_free, handle)
        self._handle = handle
        self._vocabulary = vocabulary
        self._control = vocabulary.control_tokens
        self._names_tokens = "<" in _NO_BRACKETS.sub("", text)
        self._candidates = np.zeros(vocabulary.size, _CANDIDATE)
        self._candidates["id"] = np.arange(vocabulary.size)

    def allowed(self) -> Bools:
        """Return which tokens may come next, (n_vocab,).

        A token is allowed only if the tokens that its text begins with are, so most tokens need no check if
        few are allowed: that takes a hundredth of the 10 to 40 ms for 50,000 tokens of which most are
        allowed.
        """
        if self._names_tokens:  # by name, whatever their texts
            return self._check(self._candidates.copy()) & ~self._control
        prefixes = self._vocabulary.text_prefixes
        allowed = np.zeros(len(self._candidates), np.bool_)
        tokens, *longer = prefixes.levels
        allowed[tokens] = self._check(self._candidates[tokens])
        for level in longer:
            tokens = level[allowed[prefixes.longest[level]]]
            if not len(tokens):
                break
            allowed[tokens] = self._check(self._candidates[tokens])
        return allowed & ~self._control

    def allows(self, token: int) -> bool:
        """Return whether ``token`` may come next. Takes microseconds."""
        return not self._control[token] and bool(self._check(self._candidates[token : token + 1].copy())[0])

    def accept(self, token: int) -> None:
        """Advance by ``token``. Raises SettingsError if it is not allowed (llama.cpp would abort)."""
        if not self.allows(token):
            raise SettingsError(f"the grammar does not allow the token {token} here")
        llama.llama_sampler_accept(self._handle, token)

    def restart(self) -> None:
        """Return to the beginning of the text."""
        llama.llama_sampler_reset(self._handle)

    def _check(self, candidates: np.ndarray) -> Bools:
        pointer = candidates.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
        array = llama.llama_token_data_array(data=pointer, size=len(candidates), selected=-1, sorted=False)
        llama.llama_sampler_apply(self._handle, ctypes.byref(array))
        return candidates["logit"] == 0  # llama.cpp sets it to -inf for tokens that are not allowed


def schema_grammar(schema: Mapping[str, Any] | bool) -> str:
    """Convert a JSON schema to a GBNF grammar of the JSON texts that match it.

    Keywords that llama-cpp-python's converter does not know are ignored; an empty schema allows any object.
    Raises SettingsError if the schema cannot be converted.
    """
    try:
        text: str = json_schema_to_gbnf(json.dumps(schema))
    except RecursionError:
        raise SettingsError("this JSON schema refers to itself, or nests too deep") from None
    except Exception as error:  # the converter fails in many ways on an invalid schema
        raise SettingsError(f"this JSON schema cannot become a grammar: {error!r}") from error
    # the converter allows control characters in strings, JSON does not
    return re.sub(r'^char ::= \[\^"\\\\\]', r'char ::= [^"\\\\\\x7F\\x00-\\x1F]', text, flags=re.MULTILINE)


def _check_size(text: str) -> None:
    if not text.strip():
        raise SettingsError("the grammar is empty")
    if len(text) > _MAX_LENGTH or "\0" in text or re.search("[\ud800-\udfff]", text):
        raise SettingsError(f"a grammar must be UTF-8 of at most {_MAX_LENGTH} characters, none of them NUL")
    depth = deepest = 0
    for bracket in re.findall("[()]", _NO_BRACKETS.sub("", text)):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > _MAX_DEPTH:
        raise SettingsError(f"the grammar nests {deepest} brackets; {_MAX_DEPTH} are allowed")
