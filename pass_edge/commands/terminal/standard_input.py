"""Text from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pass_edge import SettingsError


def read_stdin() -> str:
    """Return all of standard input. Raises SettingsError if it is not UTF-8."""
    return _decode(sys.stdin.buffer.read())


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"standard input is not valid UTF-8 (byte {error.start})") from error


def piped_messages() -> Iterator[str]:
    """Yield messages from a pipe, one a line. Raises SettingsError on a line that is not UTF-8."""
    return (_decode(line).rstrip("\n") for line in sys.stdin.buffer)
