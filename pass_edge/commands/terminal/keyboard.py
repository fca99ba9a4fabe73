"""The keyboard in a terminal chat: typed or pasted messages, and no echo while an answer is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .output import quiet


def typed_messages() -> Iterator[str]:
    """Yield messages typed in a terminal, with editing, history and several lines.

    Pasted text is one message, even if it has several lines. Ctrl-C clears the line, Ctrl-D ends the chat.
    """
    session = _prompt()
    while True:
        try:
            typed = session.prompt("> ", prompt_continuation="  ")
            yield typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        except KeyboardInterrupt:
            quiet("Ctrl-D or /quit leaves")
        except EOFError:
            return


def _prompt() -> Any:
    from platformdirs import user_state_path
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class _TolerantHistory(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError, ValueError):  # the disk is full; or bytes were typed that are no UTF-8
                super().store_string(string)

    history: History
    try:
        path = user_state_path("pass-edge") / "history"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.read_text(encoding="utf-8")
        history = _TolerantHistory(str(path))
    except (OSError, UnicodeDecodeError, RuntimeError) as error:  # RuntimeError: there is no home folder
        quiet(f"cannot use the history of earlier chats ({error}); this chat is not recorded")
        history = InMemoryHistory()
    return PromptSession(history=history, key_bindings=_keys(), multiline=True)


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return keys


@contextmanager
def silent_keyboard() -> Iterator[None]:
    """Turn echo off: text typed between prompts shows at the next prompt. Ctrl-C works as usual."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
