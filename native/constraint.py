"""Constraints on generated text, by llguidance: which tokens may come next, and which ones are forced.

A *grammar* is a text in one of three notations: llama.cpp's GBNF; Lark as llguidance extends it, whose first
line is ``%llguidance {}``; or llguidance's own JSON, which ``schema_grammar`` makes of a JSON schema.
"""

from __future__ import annotations

import ctypes
import json
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from .errors import ModelError, SettingsError
from .json_schema import supported_schema
from .library import llama
from .vocabulary import Vocabulary

Bools = npt.NDArray[np.bool_]

_MAX_LENGTH = 1 << 20
_LARK = "%llguidance"
_JSON_OPTIONS = {
    # one way to write a value: every comma and colon between values is then forced
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # what is not supported is an error
    "lenient": False,
    "coerce_one_of": False,
}
_GBNF_PART = re.compile(
    r'(?P<literal>"(?:\\.|[^"\\])*")|(?P<class>\[(?:\\.|[^\]\\])*\])|(?P<comment>#[^\n]*)', re.DOTALL
)
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\.", re.DOTALL)


class Constraint:
    """The state of one text under a grammar. Only ``accept``, ``retract`` and ``restart`` change it.

    Attributes: ``is_end``, whether a token ends the text.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str, begun: str = "") -> None:
        """``begun``: the beginning of the text, which stands already. Raises SettingsError if the grammar is
        wrong, does not allow that, or uses something that llguidance does not support, ModelError if the
        model has no tokenizer."""
        if not vocabulary.has_text:
            raise ModelError("this model has no tokenizer, so a grammar cannot be applied to its tokens")
        self._matcher = LLMatcher(_tokenizer(vocabulary), _llguidance_grammar(grammar), log_level=0)
        self._unknown = vocabulary.unknown_tokens
        self._size = vocabulary.size
        self.is_end = vocabulary.is_end
        ends = vocabulary.end_tokens
        self._end: int | None = vocabulary.eos if vocabulary.eos in ends else next(iter(ends), None)
        self._check()
        self._begun: list[int] = _tokenizer(vocabulary).tokenize_str(begun)
        if self.count_allowed(self._begun) < len(self._begun):
            raise SettingsError(f"the text does not begin as the grammar demands: {_short(begun)}")
        self.restart()

    def allowed(self) -> Bools:
        """Return which tokens may come next, (n_vocab,). Control tokens are among them only where the
        grammar names them, and end tokens where the text may end."""
        if self._matcher.is_stopped():
            allowed = np.zeros(self._size, np.bool_)
            allowed[self.forced()] = True
            return allowed
        if self._matcher.compute_ff_tokens() and not self.forced():  # the mask would have that one token
            return np.array([self.count_allowed([token]) == 1 for token in range(self._size)])
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(mask, count=self._size, bitorder="little").view(np.bool_)
        allowed[list(self._unknown)] = False
        return allowed

    def forced(self) -> list[int]:
        """Return the next tokens as far as the grammar leaves no choice; after a whole text that is the
        end token. The first of them is the only token that is allowed."""
        if self._matcher.is_stopped():
            return [] if self._end is None else [self._end]
        # llguidance takes tokenizing a text for exact, and some tokenizers spell a space in another way
        forced: list[int] = self._matcher.compute_ff_tokens()
        return forced[: self.count_allowed(forced)] if forced else []

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """Return how many of ``tokens``, from the first on, may follow one after the other. Unlike
        ``allowed``, this does not exclude tokens that spell a forced text in another way."""
        if self._matcher.is_stopped():
            return int(bool(tokens) and tokens[0] == self._end)
        count: int = self._matcher.validate_tokens(list(tokens))
        unknown = (i for i, token in enumerate(tokens[:count]) if token in self._unknown)
        return next(unknown, count)

    def accept(self, tokens: Sequence[int]) -> None:
        """Advance by ``tokens``; an end token changes nothing. Raises SettingsError if one of them is not
        allowed."""
        if self.count_allowed(tokens) < len(tokens):
            raise SettingsError(f"the grammar does not allow the tokens {list(tokens)} here")
        self._matcher.consume_tokens([token for token in tokens if not self.is_end(token)])
        self._check()

    def retract(self, tokens: Sequence[int]) -> None:
        """Take back ``tokens``, which were the last ones."""
        self._matcher.rollback(sum(not self.is_end(token) for token in tokens))
        self._check()

    def restart(self) -> None:
        """Return to the beginning of the text, behind what stands already."""
        self._matcher.reset()
        self._matcher.consume_tokens(self._begun)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise SettingsError(f"this grammar cannot be used: {_short(self._matcher.get_error())}")


class LlamaGrammar:
    """A grammar for ``create_completion`` and ``create_chat_completion``, as llama-cpp-python has it."""

    def __init__(self, *, _grammar: str) -> None:
        self._grammar = _grammar

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> LlamaGrammar:
        """Return the grammar of a GBNF text."""
        return cls(_grammar=grammar)

    @classmethod
    def from_file(cls, file: str, verbose: bool = True) -> LlamaGrammar:
        """Return the grammar of a GBNF file."""
        with open(file, encoding="utf-8") as stream:
            return cls(_grammar=stream.read())

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> LlamaGrammar:
        """Return the grammar of the JSON texts that match a schema. Raises SettingsError."""
        try:
            return cls(_grammar=schema_grammar(json.loads(json_schema)))
        except ValueError as error:
            raise SettingsError(f"the JSON schema is no JSON: {error}") from error


def schema_grammar(schema: Mapping[str, Any] | bool) -> str:
    """Return the grammar of the JSON texts that match a JSON schema.

    Values are written on one line, with a space after each comma and colon. Raises SettingsError if the
    schema is wrong, or names the keywords that are not supported.
    """
    return _checked([{"json_schema": _with_options(schema)}], "this JSON schema is not supported")


def lark_grammar(
    lark: str,
    schemas: Mapping[str, Mapping[str, Any] | bool],
    grammars: Mapping[str, str] | None = None,
) -> str:
    """Return the grammar of a Lark text with a rule ``start``, in which ``@name`` stands for a JSON text that
    matches the schema of that name, or for a text under the grammar of that name. Raises SettingsError as
    ``schema_grammar`` does."""
    parts = [{"name": name, "json_schema": _with_options(schema)} for name, schema in schemas.items()]
    for name, grammar in (grammars or {}).items():
        parts += _parts(grammar, name)
    return _checked([{"lark_grammar": f"{_LARK} {{}}\n{lark}"}, *parts], "this grammar is not supported")


def _parts(grammar: str, name: str) -> list[dict[str, Any]]:
    """The parts of a grammar, the first of them under ``name``."""
    first, *others = json.loads(_llguidance_grammar(grammar))["grammars"]
    return [{**first, "name": name}, *others]


def lark_text(vocabulary: Vocabulary, text: str) -> str:
    """Return ``text`` as a Lark expression, in which control tokens that it names are these tokens, which
    llguidance keeps out of all other texts."""
    is_special = _tokenizer(vocabulary).is_special_token
    tokens = vocabulary.tokenize(text, parse_special=True).tolist()
    special = {vocabulary.piece(token, special=True).decode(): token for token in tokens if is_special(token)}
    parts = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
    return " ".join(
        f"<[{special[part]}]>" if part in special else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )


def lark_pattern(text: str) -> str:
    """Return ``text`` as a part of a regular expression in Lark."""
    return re.escape(text).replace("/", r"\/")


def _with_options(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    return {**supported_schema(schema), "x-guidance": _JSON_OPTIONS}


def _checked(parts: Sequence[Mapping[str, Any]], complaint: str) -> str:
    grammar = json.dumps({"grammars": parts})
    is_wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    # without a vocabulary, it warns of every token that a grammar names by its id, as ``lark_text`` does
    messages = [message for message in messages if "no tokenizer" not in message]
    if is_wrong or messages:
        raise SettingsError(f"{complaint}: {_short('; '.join(messages))}")
    return grammar


def _llguidance_grammar(text: str) -> str:
    if not text.strip():
        raise SettingsError("the grammar is empty")
    if len(text) > _MAX_LENGTH or "\0" in text or re.search("[\ud800-\udfff]", text):
        raise SettingsError(f"a grammar must be UTF-8 of at most {_MAX_LENGTH} characters, none of them NUL")
    start = text.lstrip()
    if start.startswith("{"):
        return text
    lark = start if start.startswith(_LARK) else _lark_of_gbnf(text)
    return json.dumps({"grammars": [{"lark_grammar": lark}]})


def _lark_of_gbnf(text: str) -> str:
    try:
        lark: str = gbnf_to_lark(_GBNF_PART.sub(_plain_part, text))
        return lark
    except RecursionError:
        raise SettingsError("the grammar nests too many brackets") from None
    except GbnfToLarkError as error:
        raise SettingsError(f"this grammar is no GBNF: {_short(str(error))}") from error
    except Exception as error:  # the translator's own errors have no class of their own
        raise SettingsError(f"this grammar cannot be used: {_short(str(error))}") from error


def _plain_part(part: re.Match[str]) -> str:
    """Return a part of a GBNF text with its escapes as characters, which the translator passes on wrongly,
    and without the operators that only Lark's character classes have."""
    if part["comment"]:
        return ""
    text = _ESCAPE.sub(_unescaped, part[0])
    return re.sub("([&~])", lambda each: f"\\x{ord(each[0]):02x}", text) if part["class"] else text


def _unescaped(escape: re.Match[str]) -> str:
    digits = escape[2] or escape[3]
    if not digits:
        return escape[0]
    code = int(digits, 16)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
        raise SettingsError(f"the grammar's escape {escape[0]} is no character")
    return chr(code)


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= 300 else f"{line[:300]}…"


_tokenizers: weakref.WeakKeyDictionary[Vocabulary, LLTokenizer] = weakref.WeakKeyDictionary()


def _tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """Return the vocabulary as llguidance reads it, which takes up to a second to make. llguidance's own
    ``lltokenizer_from_vocab`` takes longer: it calls a deprecated function, which warns for each token."""
    if vocabulary not in _tokenizers:
        _tokenizers[vocabulary] = LLTokenizer.from_llamacpp(
            tokens=[_llguidance_token(vocabulary, token) for token in range(vocabulary.size)],
            vocab_ptr=vocabulary.handle,
            tokenize_fptr=ctypes.cast(llama._lib.llama_tokenize, ctypes.c_void_p).value,
            eos_token=list(vocabulary.end_tokens) or [llama.LLAMA_TOKEN_NULL],
        )
    return _tokenizers[vocabulary]


def _llguidance_token(vocabulary: Vocabulary, token: int) -> bytes:
    """Return the bytes of a token, after 0xff if it is a special one: a control token, or one
    that was added in the form of one."""
    piece = vocabulary.piece(token, special=True)
    attributes = llama.llama_vocab_get_attr(vocabulary.handle, token)
    is_tag = piece[:1] == b"<" and piece[-1:] == b">" and attributes & llama.LLAMA_TOKEN_ATTR_USER_DEFINED
    return b"\xff" + piece if is_tag or attributes & llama.LLAMA_TOKEN_ATTR_CONTROL else piece
