"""llama.cpp's grammar engine: which tokens may come next, given those that came; and JSON schemas as
grammars."""

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
_DEEPEST = 200  # brackets in brackets: llama.cpp reads them by recursion, and dies of tens of thousands
_LONGEST = 1 << 20
_NO_BRACKETS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)


class Grammar:
    """The state of one text under a GBNF grammar: it moves with ``accept`` alone."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        """``text``: GBNF with a rule ``root``. Raises SettingsError if llama.cpp cannot read it, ModelError
        if the model has no text."""
        if not vocabulary.has_text:
            raise ModelError("this model carries no tokenizer, so no grammar can be held against its tokens")
        _check_size(text)
        handle = llama.llama_sampler_init_grammar(vocabulary.handle, text.encode(), b"root")
        if not handle:
            raise SettingsError("llama.cpp cannot read this grammar; its reason is on standard error")
        weakref.finalize(self, llama.llama_sampler_free, handle)
        self._handle = handle
        self._vocabulary = vocabulary
        self._markup = vocabulary.markup
        self._names_tokens = "<" in _NO_BRACKETS.sub("", text)
        self._all = np.zeros(vocabulary.size, _CANDIDATE)
        self._all["id"] = np.arange(vocabulary.size)

    def allowed(self) -> Bools:
        """Which tokens may come next, (n_vocab,). A text is allowed only if what it begins with is, so of
        most tokens nothing needs to be asked: where few are allowed it takes a hundredth of what it takes
        where most are, 10 to 40 ms for 50,000."""
        if self._names_tokens:  # whatever their texts
            return self._asked(self._all.copy()) & ~self._markup
        beginnings = self._vocabulary.beginnings
        allowed = np.zeros(len(self._all), np.bool_)
        asked, *further = beginnings.levels
        allowed[asked] = self._asked(self._all[asked])
        for level in further:
            asked = level[allowed[beginnings.longest[level]]]
            if not len(asked):
                break
            allowed[asked] = self._asked(self._all[asked])
        return allowed & ~self._markup

    def allows(self, token: int) -> bool:
        """Whether ``token`` may come next; microseconds."""
        return not self._markup[token] and bool(self._asked(self._all[token : token + 1].copy())[0])

    def accept(self, token: int) -> None:
        """Go on behind ``token``. Raises SettingsError if it is not allowed (llama.cpp would abort)."""
        if not self.allows(token):
            raise SettingsError(f"the grammar does not allow the token {token} here")
        llama.llama_sampler_accept(self._handle, token)

    def restart(self) -> None:
        """Back to the beginning of the text."""
        llama.llama_sampler_reset(self._handle)

    def _asked(self, candidates: np.ndarray) -> Bools:
        pointer = candidates.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
        array = llama.llama_token_data_array(data=pointer, size=len(candidates), selected=-1, sorted=False)
        llama.llama_sampler_apply(self._handle, ctypes.byref(array))
        return candidates["logit"] == 0  # what is not allowed became -inf


def schema_grammar(schema: Mapping[str, Any] | bool) -> str:
    """GBNF of the JSON texts that match a JSON schema (those of its words that llama-cpp-python's converter
    knows; an empty one is any object). Raises SettingsError if it cannot be converted."""
    try:
        text: str = json_schema_to_gbnf(json.dumps(schema))
    except RecursionError:
        raise SettingsError("this JSON schema refers to itself, or nests too deep") from None
    except Exception as error:  # whatever a schema that is none makes of the converter
        raise SettingsError(f"this JSON schema cannot become a grammar: {error!r}") from error
    # the converter lets control characters into strings, where JSON has none
    return re.sub(r'^char ::= \[\^"\\\\\]', r'char ::= [^"\\\\\\x7F\\x00-\\x1F]', text, flags=re.MULTILINE)


def _check_size(text: str) -> None:
    if not text.strip():
        raise SettingsError("the grammar is empty")
    if len(text) > _LONGEST or "\0" in text or re.search("[\ud800-\udfff]", text):
        raise SettingsError(f"a grammar is UTF-8 of at most {_LONGEST} letters, and none of them is NUL")
    depth = deepest = 0
    for bracket in re.findall("[()]", _NO_BRACKETS.sub("", text)):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise SettingsError(f"the grammar nests {deepest} brackets; {_DEEPEST} are allowed")
