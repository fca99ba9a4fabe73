"""Text from standard input and from arguments, and questions to the user."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator

import click

from pass_edge.native.errors import SettingsError

from .output import quiet

_PATIENCE = 1.0
"""Seconds that a pipe may be silent before the user is told that it is waited for."""


def text(value: str) -> str:
    """Parse an argument that is text, and so must be UTF-8. Python takes other bytes for lone surrogates."""
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise click.BadParameter("it is not valid UTF-8")
    return value


def read_prompt(argument: str | None) -> str:
    """Return the prompt: the text on standard input, if that is no terminal, and ``argument`` after it. In a
    terminal without ``argument``, wait for typed text. Raises SettingsError if the text is not UTF-8."""
    if not sys.stdin.isatty():
        _wait_for_pipe()
        piped = _read_stdin()
    elif argument is None:
        quiet("type the prompt; Ctrl-D on an empty line ends it")
        piped = _read_stdin()
    else:
        piped = ""
    return "\n\n".join(part for part in (piped, argument) if part)


def _wait_for_pipe() -> None:
    try:
        is_ready = select.select([sys.stdin], [], [], _PATIENCE)[0]
    except (OSError, ValueError):  # not a file of the system
        return
    if not is_ready:
        quiet("waiting until standard input ends; < /dev/null gives none")


def _read_stdin() -> str:
    """Return all of standard input, without its last newline."""
    return _decode(sys.stdin.buffer.read()).replace("\r\n", "\n").removesuffix("\n")


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")  # Windows marks UTF-8
    except UnicodeDecodeError as error:
        raise SettingsError(f"standard input is not valid UTF-8 (byte {error.start})") from error


def piped_messages() -> Iterator[str]:
    """Yield messages from a pipe, one a line. Raises SettingsError on a line that is not UTF-8."""
    return (_decode(line).rstrip("\r\n") for line in sys.stdin.buffer)


def confirm_removal(name: str, details: str = "") -> None:
    """Ask whether to remove ``name``; its ``details`` are part of the question. Ends the command if not.
    Raises SettingsError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise SettingsError(f"{name} is removed only with --yes, where nobody can be asked")
    click.confirm(f"Remove {name}{details}?", abort=True, err=True)
