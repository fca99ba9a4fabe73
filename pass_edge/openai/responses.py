"""Requests of OpenAI's Responses API as requests for a chat: the same conversation, in other words.

Nothing is kept between requests, so what refers to an earlier one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pass_edge.native.errors import SettingsError

from .requests import ChatCompletionRequest, Request, ResponseRequest

Json = dict[str, Any]

_NOTHING_KEPT = "nothing is kept here between requests; send the whole conversation as input"
_REFUSED = {
    "previous_response_id": _NOTHING_KEPT,
    "conversation": _NOTHING_KEPT,
    "prompt": "no prompts are kept here; send instructions and input",
    "background": "a response is answered while its client waits",
    "top_logprobs": "responses have no logprobs here; chat completions do",
}
_TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


def chat_request(request: ResponseRequest) -> ChatCompletionRequest:
    """Return ``request`` as a request for a chat. Raises SettingsError if it asks for what is not supported,
    or is malformed."""
    _refuse_unsupported(request)
    tools, tool_choice = _tools(request)
    reasoning, shared = request.reasoning or {}, {each.name for each in fields(Request)} - {"response_format"}
    parameters = {name: getattr(request, name) for name in shared} | {
        "max_tokens": request.max_output_tokens or request.max_tokens,
        "stream_options": {"include_usage": True},
    }
    return ChatCompletionRequest(
        _messages(request.instructions, request.input),
        **parameters,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_response_format((request.text or {}).get("format")) or request.response_format,
        reasoning_effort=reasoning.get("effort"),
        chat_template_kwargs=request.chat_template_kwargs,
    )


def _refuse_unsupported(request: ResponseRequest) -> None:
    for name, reason in _REFUSED.items():
        if getattr(request, name):
            raise SettingsError(f"{name} is not supported: {reason}")
    if request.n != 1:
        raise SettingsError(f"n is {request.n}; a response is always one")
    if request.truncation not in (None, "disabled"):
        raise SettingsError("truncation is not supported: nothing is left out of a conversation; shorten it")
    if "message.output_text.logprobs" in (request.include or ()):
        raise SettingsError(f"logprobs cannot be included: {_REFUSED['top_logprobs']}")


# -- input ----------------------------------------------------------------------------------------


def _messages(instructions: str | None, given: str | Sequence[Mapping[str, Any]]) -> list[Json]:
    messages: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for item in items:
        try:
            _add_item(messages, item)
        except (KeyError, TypeError, AttributeError) as error:
            kind = item.get("type", "message") if isinstance(item, Mapping) else type(item).__name__
            raise SettingsError(f"an input item of type {kind} is malformed: {error!r}") from None
    return messages


def _add_item(messages: list[Json], item: Mapping[str, Any]) -> None:
    """Add one item of the input. Thinking, text and calls of one turn become one message."""
    kind = item.get("type") or "message"
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if kind == "message":
        text = _text(item["content"])
        if item["role"] == "assistant" and last and not last["content"] and "tool_calls" not in last:
            last["content"] = text
        else:
            messages.append({"role": item["role"], "content": text})
    elif kind == "reasoning":
        thought = _text(item.get("content") or item.get("summary") or "")
        if thought:
            messages.append({"role": "assistant", "content": "", "reasoning_content": thought})
    elif kind == "function_call":
        if last is None:
            last = {"role": "assistant", "content": ""}
            messages.append(last)
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        last.setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        content = _text(item["output"])
        messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
    elif kind == "item_reference":
        raise SettingsError(f"an item_reference is not supported: {_NOTHING_KEPT}")
    else:
        raise SettingsError(
            f"input items of type {kind} are not supported; known are message, reasoning, function_call, "
            "function_call_output"
        )


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        kind = part["type"]
        if kind not in (*_TEXT_PARTS, "refusal"):
            raise SettingsError(f"the input has a part of type {kind}; this model reads text only")
        texts.append(part["refusal" if kind == "refusal" else "text"])
    return "".join(texts)


# -- tools and formats ----------------------------------------------------------------------------


def _tools(request: ResponseRequest) -> tuple[list[Json], str | Json | None]:
    """The tools and the choice among them, as a chat has them."""
    tools, choice = [_tool(tool) for tool in request.tools or ()], request.tool_choice
    if choice is None or isinstance(choice, str):
        return tools, choice
    try:
        if choice["type"] == "function":
            return tools, {"type": "function", "function": {"name": choice["name"]}}
        if choice["type"] == "allowed_tools":
            names = {tool["name"] for tool in choice["tools"]}
            return [tool for tool in tools if tool["function"]["name"] in names], choice["mode"]
    except (KeyError, TypeError):
        pass
    raise SettingsError(
        'tool_choice must be none, auto, required, {"type": "function", "name": …}, or '
        '{"type": "allowed_tools", "mode": …, "tools": […]}'
    )


def _tool(tool: Mapping[str, Any]) -> Json:
    kind = tool.get("type")
    if kind != "function":
        raise SettingsError(f"tools of type {kind} are not supported; only functions are")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _response_format(text_format: Mapping[str, Any] | None) -> Json | None:
    if text_format is None:
        return None
    kind, *others = (text_format.get(key) for key in ("type", "name", "schema"))
    if kind != "json_schema":
        return dict(text_format)
    if None in others:
        raise SettingsError('a text.format of type json_schema must have {"name": …, "schema": …}')
    return {"type": kind, "json_schema": {key: text_format[key] for key in text_format if key != "type"}}
