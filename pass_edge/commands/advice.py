"""What to type instead of a command line that is wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

import click

from pass_edge.models.names import HubName, OllamaName, ShortName, parse_name
from pass_edge.native.errors import SettingsError

_OTHER_NAMES = {
    **dict.fromkeys(("run", "talk", "interactive", "cli"), "chat"),
    **dict.fromkeys(("ask", "complete", "completion", "prompt", "query", "answer"), "generate"),
    **dict.fromkeys(("server", "start", "api"), "serve"),
    **dict.fromkeys(("benchmark", "perf", "measure"), "bench"),
    **dict.fromkeys(("list", "ls", "model"), "models"),
    **dict.fromkeys(("pull", "download", "get", "fetch"), "models pull"),
    **dict.fromkeys(("rm", "remove", "delete"), "models rm"),
    **dict.fromkeys(("info", "show", "describe"), "inspect"),
    **dict.fromkeys(("check", "test", "status", "diagnose"), "doctor"),
    "version": "--version",
}
"""What other programs call these commands."""


def for_unknown_command(words: Sequence[str], commands: Sequence[str]) -> str:
    """Return a sentence about the first of ``words``, which is not one of ``commands``."""
    name, *rest = words
    if _is_model(name):
        return f"{name} is not a command; to chat with this model: {_line('chat', '-m', *words)}"
    if " " in name.strip():
        return f"there is no such command; to ask one question: {_line('generate', *words)}"
    meant = _OTHER_NAMES.get(name.lower())
    similar = [meant] if meant else get_close_matches(name.lower(), commands, 2)
    if not similar:
        return f"there is no command {name}; the commands are {', '.join(commands)}"
    takes_option = similar[0] in ("chat", "generate", "serve")
    rest = ["-m", *rest] if takes_option and rest and _is_model(rest[0]) else rest
    lines = [_line(*each.split(), *rest) for each in similar]
    return f"there is no command {name}; did you mean: {' or '.join(lines)}"


def for_unexpected_argument(error: click.UsageError) -> str:
    """Return what to add to ``error`` if it is an argument too many; "" if it is something else."""
    found = re.search(r"unexpected extra arguments? \((.*)\)$", error.message)
    if not found or not error.ctx or not error.ctx.info_name:
        return ""
    has_option = any("-m" in parameter.opts for parameter in error.ctx.command.params)
    if has_option and _is_model(found[1]):
        return f"; a model is given with -m: {_line(error.ctx.info_name, '-m', found[1])}"
    if error.ctx.info_name == "chat":
        return f"; to ask one question: {_line('generate', found[1])}"
    return ""


def for_unknown_option(error: click.NoSuchOption, words: Sequence[str], command: click.Command) -> str:
    """Return what to add to ``error``, about an option in front of all commands, if ``command`` has it."""
    if not any(error.option_name in parameter.opts for parameter in command.params):
        return ""
    return f" Options come after the command, as in: {_line(command.name or '', *words)}"


def _is_model(word: str) -> bool:
    if word.lower().endswith(".gguf") or ("." in word and Path(word).is_file()):
        return True
    with suppress(SettingsError):
        name = parse_name(word)
        is_tagged = isinstance(name, ShortName) and re.fullmatch(r"[^\s:]+:[^\s:]+", word)  # as in Ollama
        return bool(is_tagged) or isinstance(name, (HubName, OllamaName))
    return False


def _line(*words: str) -> str:
    return f"pass-edge {shlex.join(words)}"
