"""A model's vocabulary: text to token ids and back, and which tokens end an answer."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .library import llama

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TextPrefixes:
    """Which tokens' texts are prefixes of other tokens' texts.

    ``longest``: (n_vocab,), for each token the token whose text is its longest proper prefix; -1 if there is
    none. ``levels``: the tokens without a prefix, then those whose prefix is one of these, and so on.
    """

    longest: Tokens
    levels: tuple[Tokens, ...]

    @classmethod
    def from_texts(cls, texts: Sequence[bytes]) -> TextPrefixes:
        """Find the prefixes among ``texts``, by token id. Texts that are empty, or not complete UTF-8, have
        no prefixes and are none."""
        longest, depths = np.full(len(texts), -1, np.int32), np.zeros(len(texts), np.int32)
        prefixes: list[int] = []
        complete = (token for token, text in enumerate(texts) if _is_complete(text))
        for token in sorted(complete, key=texts.__getitem__):
            while prefixes and not texts[token].startswith(texts[prefixes[-1]]):
                prefixes.pop()
            if prefixes:
                longest[token], depths[token] = prefixes[-1], len(prefixes)
            prefixes.append(token)
        levels = range(depths.max(initial=0) + 1)
        return cls(longest, tuple(np.flatnonzero(depths == depth).astype(np.int32) for depth in levels))


def _is_complete(text: bytes) -> bool:
    try:
        return bool(text.decode())
    except UnicodeDecodeError:
        return False


class Vocabulary:
    """The tokenizer of a loaded model, valid as long as the model is.

    Attributes: ``handle``: llama.cpp's pointer; ``size``: number of tokens; ``has_text``: whether tokens have
    texts; ``bos``, ``eos``: token ids, -1 for none.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size: int = llama.llama_vocab_n_tokens(handle)
        self.has_text: bool = llama.llama_vocab_type(handle) != 0
        self.bos: int = llama.llama_vocab_bos(handle)
        self.eos: int = llama.llama_vocab_eos(handle)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        """Return the token ids of ``text``, (n,) int32.

        ``add_special``: add the BOS and EOS tokens that the model expects. ``parse_special``: parse control
        tokens written out in the text, as chat templates write them. Raises ModelError if the model has no
        tokenizer.
        """
        if not self.has_text:
            raise ModelError("this model has no tokenizer; give it token ids instead of text")
        raw = text.encode("utf-8", "surrogatepass")
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

    def is_end(self, token: int) -> bool:
        """Return whether the token ends a generation (EOS, end of turn …)."""
        return bool(llama.llama_vocab_is_eog(self.handle, token))

    @cached_property
    def control_tokens(self) -> npt.NDArray[np.bool_]:
        """Which tokens have no text and do not end a generation, (n_vocab,): control tokens, the unknown
        token."""
        textless = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        attributes = [llama.llama_vocab_get_attr(self.handle, token) for token in range(self.size)]
        mask = (np.array(attributes) & textless) != 0
        mask[[token for token in np.flatnonzero(mask) if self.is_end(int(token))]] = False
        return mask

    @cached_property
    def text_prefixes(self) -> TextPrefixes:
        """The prefixes among the texts of all tokens that do not end a generation."""
        return TextPrefixes.from_texts(
            [b"" if self.is_end(token) else self.piece(token) for token in range(self.size)]
        )


class Detokenizer:
    """Convert a stream of token ids to text. Bytes of incomplete UTF-8 characters are held back."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """Return the text that is complete with these tokens."""
        return self._decoder.decode(b"".join(self._vocabulary.piece(token) for token in tokens))

    def finish(self) -> str:
        """Return the text held back, with U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)
