"""Values that clients send by mistake: lone surrogates, truth values for numbers, bodies that are no JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pass_edge.server.request_schemas import ChatBody, CompletionBody, LlamaCppBody, ResponseBody
from tests.support.chat_requests import GO, MESSAGES
from tests.support.http_requests import get, post
from tests.support.serving import Running

LONE = "\ud800"
CHAT, PROMPT = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, tuple[type, dict[str, Any]]] = {
    CHAT: (ChatBody, {"messages": MESSAGES, "max_tokens": 2}),
    PROMPT: (CompletionBody, {"prompt": "the", "max_tokens": 2}),
    "/completion": (LlamaCppBody, {"prompt": "the", "n_predict": 2}),
    "/v1/responses": (ResponseBody, {"input": "the", "max_output_tokens": 2}),
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("value", [LONE, {LONE: LONE}, [LONE], [{LONE: LONE}], [[LONE]]], ids=str)
def test_a_lone_surrogate_is_never_a_server_error(value: Any, path: str, server: Running) -> None:
    body, required = BODIES[path]
    for name in (*body.__dataclass_fields__, LONE, "user"):
        status, content, _ = post(server, path, required | {name: value})
        assert status in (200, 400), (name, content)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/apply-template", {"messages": [{"role": "user", "content": LONE}]}),
        ("/apply-template", {"messages": MESSAGES, "tools": [{**GO, "function": {"name": LONE}}]}),
        ("/tokenize", {"content": LONE, "with_pieces": True, "return_token_strs": True}),
        ("/tokenize", {"content": "the", "model": LONE}),
        (CHAT, {"messages": [{"role": "user", "content": LONE, LONE: LONE}]}),
        (CHAT, {"messages": [{"role": LONE, "content": "the"}]}),
        (CHAT, {"messages": MESSAGES, "stream_options": {LONE: 1}}),
        (CHAT, {"messages": MESSAGES, "chat_template_kwargs": {LONE: LONE}}),
        ("/infill", {"input_prefix": LONE, "input_suffix": "", "input_extra": [{LONE: LONE, "text": LONE}]}),
    ],
)  # fmt: skip
def test_nor_deeper_in_a_body(path: str, body: dict[str, Any], server: Running) -> None:
    status, content, _ = post(server, path, {"max_tokens": 2} | body if "messages" in body else body)
    assert status in (200, 400), content


@pytest.mark.parametrize("path", [*BODIES])
def test_a_truth_value_is_no_number(path: str, server: Running) -> None:
    body, required = BODIES[path]
    numbers = ("temperature", "top_p", "top_k", "seed", "max_tokens", "n", "min_tokens")
    assert set(numbers) <= set(body.__dataclass_fields__)
    for name in numbers:
        status, content, _ = post(server, path, required | {name: True})
        assert (status, content["error"]["param"]) == (400, name)
        assert "true or false" in content["error"]["message"]


def test_other_truth_values_are_what_they_say(server: Running) -> None:
    required = BODIES[PROMPT][1]
    for value, has_logprobs in ((False, False), (0, True), (None, False), (2, True)):
        _, content, _ = post(server, PROMPT, required | {"logprobs": value})
        assert bool(content["choices"][0]["logprobs"]) == has_logprobs
    for wrong in (
        {"prompt": [True]},
        {"stop_token_ids": [True]},
        {"prompt": [5.0]},
        {"logit_bias": {"5": True}},
    ):
        assert post(server, PROMPT, required | wrong)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt": "thé"}'.encode("latin-1"),
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": "the", "max_tokens": ' + b"9" * 5000 + b"}",
        b"\x1f\x8b\x08\x00rest",
    ],
    ids=["latin-1", "deep", "a long number", "gzip"],
)
def test_a_body_that_cannot_be_read_says_what_it_must_be(body: bytes, server: Running) -> None:
    status, content, _ = post(server, PROMPT, body)
    assert status == 400
    assert "it must be UTF-8, uncompressed, and not nested deeply" in content["error"]["message"]


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf", b'{"prompt": "no", '])
def test_marks_of_utf_8_and_doubled_names_are_read(body: bytes, server: Running) -> None:
    asked = json.dumps({"prompt": "the", "max_tokens": 3, "seed": 1}).encode()
    sent = body + (asked[1:] if b"{" in body else asked)  # the last of two names counts
    assert post(server, PROMPT, sent)[1]["choices"] == post(server, PROMPT, asked)[1]["choices"]


@pytest.mark.parametrize("role", ["user", "system", "tool"])
@pytest.mark.parametrize("content", [None, ...])
def test_only_the_assistant_may_say_nothing(role: str, content: Any, server: Running) -> None:
    message = {"role": role} if content is ... else {"role": role, "content": content}
    status, answer, _ = post(server, CHAT, {"messages": [message, *MESSAGES], "max_tokens": 2})
    assert status == 400
    assert f"role {role!r} has no content" in answer["error"]["message"]
    message["role"] = "assistant"
    assert post(server, CHAT, {"messages": [message, *MESSAGES], "max_tokens": 2})[0] == 200


@pytest.mark.parametrize("function", ["go", None, {}, {"name": None}, {"name": 5}, [], 7])
def test_a_call_without_a_name_is_refused(function: Any, server: Running) -> None:
    call = {"id": "a", "type": "function", "function": function}
    messages = [*MESSAGES, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "x"}]
    status, content, _ = post(server, CHAT, {"messages": messages})
    assert status == 400
    assert "a function with a name" in content["error"]["message"]


def test_a_refusal_in_a_history_is_text(server: Running) -> None:
    parts = [{"type": "text", "text": "so "}, {"type": "refusal", "refusal": "no"}]
    messages = [*MESSAGES, {"role": "assistant", "content": parts}, *MESSAGES]
    assert "assistant: so no" in post(server, "/apply-template", {"messages": messages})[1]["prompt"]


def test_top_logprobs_need_logprobs(server: Running) -> None:
    for asked, expected in (({"top_logprobs": 2}, 400), ({"top_logprobs": 0}, 200), ({"n_probs": 2}, 200)):
        assert post(server, CHAT, {"messages": MESSAGES, "max_tokens": 1, **asked})[0] == expected


def test_template_variables_of_our_own_cannot_be_set(server: Running) -> None:
    for name in ("self", "messages", "add_generation_prompt"):
        body = {"messages": MESSAGES, "tools": [GO], "chat_template_kwargs": {name: 1}}
        status, content, _ = post(server, CHAT, body)
        assert status == 400
        assert f"{name} cannot be set" in content["error"]["message"]
    assert get(server, "/props")[0] == 200
