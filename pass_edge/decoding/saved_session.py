"""Saved sessions: a conversation in a file, with checks that the file is whole and belongs to this model.

The file has two lines of text, one line of JSON, then bytes:

    pass-edge session 1
    SHA-256 of everything after this line, in hexadecimal
    {"model": …, "tokens": …, "messages": …, "sampling": …, "cache": …}
    the conversation's KV cache as llama.cpp writes it, if it was asked for
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pass_edge.native.errors import ContextFullError, OutputError, SessionError, SettingsError
from pass_edge.native.gguf_file import GgufFile
from pass_edge.native.model_path import readable
from pass_edge.native.output_file import atomic_write
from pass_edge.sampling.sampler import Sampling

FORMAT, VERSION = b"pass-edge session", b"1"
ROLES = ("system", "user", "assistant")
_HASHED_BYTES = 4096  # of each tensor
_LONGEST_LINE = 128  # of the first two


@dataclass(frozen=True)
class SavedCache:
    """The KV cache of the conversation: ``state`` as llama.cpp wrote it; a context with the same ``layout``
    can read it."""

    layout: str
    state: bytes


@dataclass(frozen=True)
class SavedSession:
    """The contents of a session file.

    ``model``: its ``name``, for people, and ``weights_sha256``; ``tokens``: ids; the last may be chosen but
    not decoded, and then the cache holds the others; ``messages``: dicts with ``role`` and ``content``;
    ``sampling``: how to choose the next tokens, if that was saved.
    """

    model: Mapping[str, str]
    tokens: tuple[int, ...]
    messages: tuple[Mapping[str, str], ...] = ()
    sampling: Sampling | None = None
    cache: SavedCache | None = None

    def __post_init__(self) -> None:
        """Raise SessionError if a part is of the wrong kind."""
        if not all(isinstance(self.model[key], str) for key in ("name", "weights_sha256")):
            raise SessionError("its model is not a name and a hash")
        if not all(type(token) is int and token >= 0 for token in self.tokens):
            raise SessionError("its tokens are not ids")
        if not all(map(_is_message, self.messages)):
            raise SessionError("its messages are not role and content")

    def fitting(self, model: Mapping[str, str], *, n_vocab: int, room: int, layout: str) -> SavedSession:
        """Return this session for ``model`` (its ``identity``) with ``n_vocab`` tokens, in a context with
        room for ``room`` tokens; without the cache if its layout is not ``layout``. Raises SessionError,
        ContextFullError."""
        if self.model["weights_sha256"] != model["weights_sha256"]:
            both = f"{self.model['name']}, and this is {model['name']}"
            other = ", with other weights" if self.model["name"] == model["name"] else ""
            raise SessionError(f"this session was saved with {both}{other}; a session belongs to its model")
        if len(self.tokens) > room:
            raise ContextFullError(
                f"this session has {len(self.tokens)} tokens and the context holds {room}; raise --ctx-size"
            )
        if any(token >= n_vocab for token in self.tokens):
            raise SessionError(f"this session has a token outside the vocabulary of {n_vocab}")
        return self if self.cache and self.cache.layout == layout else replace(self, cache=None)


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)
    )


def identity(path: Path) -> dict[str, str]:
    """Return the identity of the model in ``path``. The hash covers the start of every tensor, so it differs
    for another quantization or training, and stays the same for another chat template."""
    digest = hashlib.sha256()
    with GgufFile(path) as file, ExitStack() as opened:
        pieces = [opened.enter_context(piece.open("rb")) for piece in file.pieces]
        for tensor in file.tensors.values():
            raw = pieces[tensor.piece]
            raw.seek(tensor.offset)
            digest.update(f"{tensor.name} {tensor.code} {tensor.shape}\n".encode())
            digest.update(raw.read(min(tensor.size, _HASHED_BYTES)))
        name = file.get("general.name")
    name = name if isinstance(name, str) else readable(path.stem)
    return {"name": name, "weights_sha256": digest.hexdigest()}


def write_session(saved: SavedSession, path: str | Path) -> None:
    """Write ``saved`` to ``path``, which may replace an older session but no other file; the file appears
    only when it is complete. Raises OutputError."""
    path = Path(path)
    if path.exists() and not _is_session(path):
        raise OutputError(f"{path} exists and is no saved session; choose another name")
    header = asdict(saved) | {"cache": saved.cache.layout if saved.cache else None}
    if saved.sampling:  # JSON has no keys but strings
        header["sampling"]["logit_bias"] = list(saved.sampling.logit_bias.items())
    line = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    state = saved.cache.state if saved.cache else b""
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        file.write(FORMAT + b" " + VERSION + b"\n" + _digest(line, state) + b"\n" + line)
        file.write(state)


def read_session(path: str | Path) -> SavedSession:
    """Read the session in ``path``. Raises SessionError if it cannot be read, is no session, or is
    damaged."""
    try:
        with Path(path).open("rb") as file:
            first, stated = (file.readline(_LONGEST_LINE).rstrip(b"\n") for _ in range(2))
            mark, _, version = first.rpartition(b" ")
            if mark != FORMAT:
                raise SessionError(f"{path} is no saved session")
            if version != VERSION:
                found = version.decode("ascii", "replace")
                raise SessionError(
                    f"{path} has format version {found}; this program needs {VERSION.decode()}"
                )
            line, state = file.readline(), file.read()
    except OSError as error:
        raise SessionError(f"the session {path} cannot be read: {error.strerror}") from error
    if stated != _digest(line, state):
        raise SessionError(f"{path} is damaged or cut off: its hash is wrong")
    try:
        return _session(json.loads(line), state)
    except (SessionError, SettingsError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise SessionError(f"{path} is damaged: {error}") from error


def _session(header: Any, state: bytes) -> SavedSession:
    sampling, layout = header["sampling"], header["cache"]
    if sampling:
        bias = {int(token): float(value) for token, value in sampling["logit_bias"]}
        sampling = Sampling(**sampling | {"logit_bias": bias})
    return SavedSession(
        model=header["model"],
        tokens=tuple(header["tokens"]),
        messages=tuple(header["messages"]),
        sampling=sampling,
        cache=SavedCache(layout, state) if layout else None,
    )


def _digest(line: bytes, state: bytes) -> bytes:
    digest = hashlib.sha256(line)
    digest.update(state)
    return digest.hexdigest().encode()


def _is_session(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(FORMAT)) == FORMAT
    except OSError:
        return False
