"""A model's vocabulary: text to token ids and back, and which tokens end an answer."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .library import llama

_KINDS = ("none", "SPM", "BPE", "WPM", "UGM", "RWKV", "PLaMo-2")
"""The types of tokenizers by number (`llama.h`, `enum llama_vocab_type`)."""
_MAX_PADDING = 128
"""Models of one family may have so many more tokens than others, which are no text."""
_N_SPECIAL = 5
"""The first tokens are special ones, which models of one family may name differently."""
Tokens = npt.NDArray[np.int32]
Text = str | bytes | bytearray
"""Text, or its UTF-8."""


def as_bytes(text: Text) -> bytes:
    """Return ``text`` in UTF-8. Lone surrogates, which UTF-8 cannot encode, are encoded as other letters."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)


def as_text(text: Text) -> str:
    """Return ``text`` as a string, with U+FFFD for bytes that are no UTF-8."""
    return text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")


class InfillTokens(NamedTuple):
    """The tokens that open a prefix, open a suffix, and ask for the text in the middle; and those that name a
    repository and a file of it, -1 if there are none."""

    prefix: int
    suffix: int
    middle: int
    repository: int
    file: int


class Vocabulary:
    """The tokenizer of a loaded model, valid as long as the model is.

    Attributes: ``handle``: llama.cpp's pointer; ``size``: number of tokens; ``has_text``: whether tokens have
    texts; ``bos``, ``eos``, ``newline``: token ids, -1 for none; ``adds_bos``: whether a text begins with
    BOS; ``infill``: the tokens for filling in, None if the model was not trained for it.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size: int = llama.llama_vocab_n_tokens(handle)
        self.has_text: bool = llama.llama_vocab_type(handle) != 0
        self.bos: int = llama.llama_vocab_bos(handle)
        self.eos: int = llama.llama_vocab_eos(handle)
        self.newline: int = llama.llama_vocab_nl(handle)
        self.adds_bos: bool = self.bos >= 0 and llama.llama_vocab_get_add_bos(handle)
        infill = InfillTokens(
            llama.llama_vocab_fim_pre(handle),
            llama.llama_vocab_fim_suf(handle),
            llama.llama_vocab_fim_mid(handle),
            llama.llama_vocab_fim_rep(handle),
            llama.llama_vocab_fim_sep(handle),
        )
        self.infill = infill if min(infill[:3]) >= 0 else None

    def tokenize(self, text: Text, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        """Return the token ids of ``text``, (n,) int32.

        ``add_special``: add the BOS and EOS tokens that the model expects. ``parse_special``: parse control
        tokens written out in the text, as chat templates write them. Raises ModelError if the model has no
        tokenizer.
        """
        if not self.has_text:
            raise ModelError("this model has no tokenizer; give it token ids instead of text")
        raw = as_bytes(text)
        ids = np.empty(len(raw) + 8, np.int32)
        count = self._tokenize(raw, ids, add_special, parse_special)
        if count < 0:
            ids = np.empty(-count, np.int32)
            count = self._tokenize(raw, ids, add_special, parse_special)
        return ids[:count]

    def _tokenize(self, raw: bytes, ids: Tokens, add_special: bool, parse_special: bool) -> int:
        pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        return int(
            llama.llama_tokenize(self.handle, raw, len(raw), pointer, len(ids), add_special, parse_special)
        )

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of a token. They are empty for control tokens, unless ``special`` is set, and for
        all tokens of a model without a tokenizer. Raises ModelError if there is no such token (llama.cpp
        would abort)."""
        if not self.has_text:
            return b""
        if not 0 <= token < self.size:
            raise ModelError(f"there is no token {token}; the vocabulary has {self.size}")
        buffer = ctypes.create_string_buffer(64)
        count = llama.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = llama.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, special)
        return buffer.raw[:count]

    def difference_from(self, other: Vocabulary, n_vocab: int) -> str:
        """Return how ``other`` differs from the first ``n_vocab`` tokens here, as a part of a sentence; "" if
        token ids mean the same in both. It may have more or fewer tokens as padding."""
        kinds = [_kind(each) for each in (self, other)]
        if kinds[0] != kinds[1]:
            return f"its tokenizer is of the type {kinds[1]}, not {kinds[0]}"
        if not n_vocab - _MAX_PADDING <= other.size <= self.size + _MAX_PADDING:
            return f"it has {other.size} tokens, not {n_vocab}"
        get_text = llama.llama_vocab_get_text
        for token in range(_N_SPECIAL, min(n_vocab, other.size) if self.has_text else 0):
            ours, theirs = get_text(self.handle, token), get_text(other.handle, token)
            if ours != theirs:
                return f"its token {token} is {as_text(theirs)!r}, not {as_text(ours)!r}"
        return ""

    def is_end(self, token: int) -> bool:
        """Return whether the token ends a generation (EOS, end of turn …)."""
        return bool(llama.llama_vocab_is_eog(self.handle, token))

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a generation."""
        return tuple(filter(self.is_end, range(self.size)))

    def control_tokens_in(self, text: str) -> set[int]:
        """Return the control tokens that ``text`` names."""
        if not self.has_text:
            return set()
        return {token for token in self.tokenize(text, parse_special=True).tolist() if not self.piece(token)}

    @cached_property
    def unknown_tokens(self) -> frozenset[int]:
        """The tokens that stand for text outside the vocabulary; their pieces are not text."""
        unknown = llama.LLAMA_TOKEN_ATTR_UNKNOWN
        tokens = (
            token for token in range(self.size) if llama.llama_vocab_get_attr(self.handle, token) & unknown
        )
        return frozenset(token for token in tokens if not self.is_end(token))


def _kind(vocabulary: Vocabulary) -> str:
    number = llama.llama_vocab_type(vocabulary.handle)
    return _KINDS[number] if number < len(_KINDS) else str(number)


class Detokenizer:
    """Convert a stream of token ids to text. Bytes of incomplete UTF-8 characters are held back."""

    def __init__(self, vocabulary: Vocabulary, visible: Collection[int] = ()) -> None:
        """``visible``: control tokens that are written out."""
        self._vocabulary = vocabulary
        self._visible = visible
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """Return the text that is complete with these tokens."""
        piece, visible = self._vocabulary.piece, self._visible
        return self._decoder.decode(b"".join(piece(token, special=token in visible) for token in tokens))

    def finish(self) -> str:
        """Return the text held back, with U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)
