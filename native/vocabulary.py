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
class Beginnings:
    """Which tokens' texts begin like others'. ``longest``: for each token the one with the longest text that
    its own begins with, (n_vocab,); -1 where there is none. ``levels``: the tokens that begin with no other,
    those that begin with one of these alone, and so on."""

    longest: Tokens
    levels: tuple[Tokens, ...]

    @classmethod
    def among(cls, texts: Sequence[bytes]) -> Beginnings:
        """Of ``texts``. Those that are empty, or not whole UTF-8 characters, begin with none, and none with
        them."""
        longest, depths = np.full(len(texts), -1, np.int32), np.zeros(len(texts), np.int32)
        above: list[int] = []
        for token in sorted(
            filter(lambda token: _is_whole(texts[token]), range(len(texts))), key=texts.__getitem__
        ):
            while above and not texts[token].startswith(texts[above[-1]]):
                above.pop()
            if above:
                longest[token], depths[token] = above[-1], len(above)
            above.append(token)
        levels = range(depths.max(initial=0) + 1)
        return cls(longest, tuple(np.flatnonzero(depths == depth).astype(np.int32) for depth in levels))


def _is_whole(text: bytes) -> bool:
    try:
        return bool(text.decode())
    except UnicodeDecodeError:
        return False


class Vocabulary:
    """The tokenizer of a loaded model; valid as long as the model is. ``handle``: llama.cpp's pointer."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size: int = llama.llama_vocab_n_tokens(handle)
        self.has_text: bool = llama.llama_vocab_type(handle) != 0
        self.bos: int = llama.llama_vocab_bos(handle)
        self.eos: int = llama.llama_vocab_eos(handle)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> Tokens:
        """Token ids of ``text``, (n,) int32.

        ``add_special`` adds the BOS/EOS that the model asks for; ``parse_special`` reads control
        tokens written out in the text (as chat templates do). Raises ModelError if the model
        carries no tokenizer.
        """
        if not self.has_text:
            raise ModelError("this model carries no tokenizer; give it token ids instead of text")
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
        """The bytes a token stands for; control tokens are empty unless ``special``, and so is every token of
        a model without text. Raises ModelError if there is no such token (llama.cpp would abort)."""
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
        """Whether the token ends a generation (EOS, end of turn …)."""
        return bool(llama.llama_vocab_is_eog(self.handle, token))

    @cached_property
    def markup(self) -> npt.NDArray[np.bool_]:
        """Which tokens have no text of their own and end nothing, (n_vocab,): control tokens, the unknown
        one."""
        kinds = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        attributes = [llama.llama_vocab_get_attr(self.handle, token) for token in range(self.size)]
        marked = (np.array(attributes) & kinds) != 0
        marked[[token for token in np.flatnonzero(marked) if self.is_end(int(token))]] = False
        return marked

    @cached_property
    def beginnings(self) -> Beginnings:
        """Of the texts of all tokens but those that end an answer."""
        return Beginnings.among(
            [b"" if self.is_end(token) else self.piece(token) for token in range(self.size)]
        )


class Detokenizer:
    """Token ids to text as they come, holding back bytes that are not yet whole UTF-8 characters."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that became certain with these tokens."""
        return self._decoder.decode(b"".join(self._vocabulary.piece(token) for token in tokens))

    def finish(self) -> str:
        """What was held back, with U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)
