"""Render a model's chat template with llama-cpp-python's sandboxed Jinja formatter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from .default_templates import KNOWN_TEMPLATES, KnownTemplate, default_template
from .errors import ModelError, SettingsError
from .model import Model
from .vocabulary import Text, as_text

_OWN_VARIABLES = {
    *("messages", "tools", "tool_choice", "functions", "function_call", "eos_token", "bos_token"),
    *("raise_exception", "add_generation_prompt", "strftime_now", "self"),
}


def render(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    opens_turn: bool = True,
) -> str:
    """Return the prompt for the next assistant turn; without ``opens_turn``, up to the end of ``messages``.

    ``messages``: each with ``role`` and ``content``, which may be None. ``tools``, ``tool_choice``: in
    OpenAI's format, for templates that support them. ``arguments``: further variables of the template.
    Raises ModelError if the template is wrong or refuses the conversation, SettingsError if ``arguments`` has
    one of its own variables.
    """
    vocabulary = model.vocabulary
    reserved = sorted(_OWN_VARIABLES & {*(arguments or ())})
    if reserved:
        raise SettingsError(f"the chat template's {', '.join(reserved)} cannot be set")
    try:
        template = model.chat_template() or default_template(vocabulary).source
        formatter = _formatter(
            template, _text(model, vocabulary.eos), _text(model, vocabulary.bos), opens_turn=opens_turn
        )
        is_text = _wants_text_arguments(formatter)
        prompt: str = formatter(
            messages=[_message(message, arguments_as_text=is_text) for message in messages],
            tools=list(tools) if tools else None,
            tool_choice=tool_choice,
            **(arguments or {}),
        ).prompt
        return prompt
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template of {model.path.name} is wrong in line {error.lineno}: {error.message}; "
            "give another one with --chat-template or --chat-template-file"
        ) from error
    except Exception as error:  # a template is a program, and may fail in every way
        reason = str(error) or type(error).__name__
        raise ModelError(
            f"the chat template of {model.path.name} refuses this conversation: {reason}"
        ) from error


def template_source(wanted: str) -> str:
    """Return the Jinja source that ``wanted`` is, or is llama.cpp's name of. Raises SettingsError."""
    known = {template.key: template.source for template in KNOWN_TEMPLATES}
    if wanted in known:
        return known[wanted]
    if "{" not in wanted:
        raise SettingsError(
            f"unknown chat template {wanted!r:.60}; known are {', '.join(known)}, and any text in Jinja"
        )
    try:
        _formatter(wanted, "", "", opens_turn=True)
    except jinja2.TemplateSyntaxError as error:
        raise SettingsError(f"the chat template is wrong in line {error.lineno}: {error.message}") from error
    return wanted


def known_template(model: Model) -> KnownTemplate | None:
    """Return the known template that chats of ``model`` are in; None if they are in one of its own."""
    source = model.chat_template()
    if not source:
        return default_template(model.vocabulary)
    return next((each for each in KNOWN_TEMPLATES if each.source == source), None)


def has_tools(model: Model) -> bool:
    """Return whether the model's template supports tools."""
    return "tools" in (model.chat_template() or "")


@lru_cache(maxsize=8)
def _formatter(template: str, eos: str, bos: str, *, opens_turn: bool) -> Jinja2ChatFormatter:
    return Jinja2ChatFormatter(
        template=template, eos_token=eos, bos_token=bos, add_generation_prompt=opens_turn
    )


def _message(message: Mapping[str, Any], *, arguments_as_text: bool) -> dict[str, Any]:
    content = message.get("content") or ""
    rendered = {**message, "content": as_text(content) if isinstance(content, Text) else content}
    if "reasoning_content" in rendered:  # the templates of gpt-oss and LFM2 know it by another name
        rendered.setdefault("thinking", rendered["reasoning_content"])
    if arguments_as_text and message.get("tool_calls"):
        rendered["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return rendered


@lru_cache(maxsize=8)
def _wants_text_arguments(formatter: Jinja2ChatFormatter) -> bool:
    """Return whether the template writes the arguments of a call as they are, and so needs them as text:
    found by rendering a call with both."""
    function: dict[str, Any] = {"name": "f", "arguments": {"a": "b"}}
    call = {"id": "call00000", "type": "function", "function": function}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    try:
        return "{'a': 'b'}" in formatter(messages=messages).prompt
    except Exception:
        pass
    try:
        function["arguments"] = '{"a": "b"}'
        return '{"a": "b"}' in formatter(messages=messages).prompt
    except Exception:
        return False


def _text(model: Model, token: int) -> str:
    return model.vocabulary.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
