"""OpenAI's messages in the form of chat templates: content as one string, tool arguments as objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Text, as_text


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return ``messages`` with each ``content`` as one string, and without fields that are None.

    Raises SettingsError on an empty list, on a malformed message, and on content that is not text.
    """
    if not messages:
        raise SettingsError("there are no messages; at least one is needed")
    return [_plain_message(message) for message in messages]


def begun_message(
    messages: Sequence[Mapping[str, Any]], *, continues: bool | None, opens_turn: bool | None
) -> Mapping[str, Any] | None:
    """Return the last of ``messages`` if the answer is to continue it: if it is the assistant's and
    ``continues`` is not False. Raises SettingsError if that is asked for but not possible."""
    *others, last = messages
    if last["role"] != "assistant":
        if continues:
            raise SettingsError("continue_final_message needs a last message whose role is assistant")
        return None
    if continues is False:
        return None
    if continues and opens_turn:
        raise SettingsError("add_generation_prompt and continue_final_message exclude each other; set one")
    if others and others[-1]["role"] == "assistant":
        raise SettingsError("the last two messages are the assistant's; only one can be continued")
    if last.get("tool_calls"):
        raise SettingsError(
            "the last message has tool calls, so it cannot be continued; their results must follow it"
        )
    return last


def _plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise SettingsError("a message must be an object with a role and a content")
    role = "system" if message["role"] == "developer" else message["role"]  # OpenAI's newer name
    if message.get("content") is None and role != "assistant":
        raise SettingsError(
            f"a message of the role {role!r:.40} has no content; give it one, or leave it out"
        )
    # a template would write None
    given = {name: value for name, value in message.items() if value is not None}
    plain = {**given, "role": role, "content": _text(message.get("content"))}
    if message.get("tool_calls"):
        plain["tool_calls"] = [_plain_call(call) for call in message["tool_calls"]]
    return plain


def _text(content: Any) -> str:
    if content is None or isinstance(content, Text):
        return as_text(content or "")
    if not isinstance(content, Sequence):
        raise SettingsError("a message's content must be text, or a list of parts")
    return "".join(map(_part_text, content))


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", "refusal"):
        raise SettingsError("a message has parts that are not text; this model reads text only")
    if not isinstance(part.get(kind), str):
        raise SettingsError(f'a message has a part of type "{kind}" whose {kind} is not a string')
    return str(part[kind])


def _plain_call(call: Any) -> dict[str, Any]:
    try:
        function = call["function"]
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise TypeError("no function with a name")
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments) or {}
        if not isinstance(arguments, Mapping):
            raise TypeError("arguments are no object")
        return {**call, "function": {**function, "arguments": arguments}}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SettingsError(
            "a message's tool call must be a function with a name and JSON arguments"
        ) from error
