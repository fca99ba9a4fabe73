"""Text from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator


def read_stdin() -> str:
    """All of standard input; raises SettingsError if it is not UTF-8."""
    return decoded(sys.stdin.buffer.read())


def decoded(raw: bytes) -> str:
    from pass_edge import SettingsError

    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"standard input is not valid UTF-8 (byte {error.start})") from error


def piped_messages() -> Iterator[str]:
    """Messages from a pipe, one a line."""
    return (decoded(line).rstrip("\n") for line in sys.stdin.buffer)
