"""/v1/responses, as OpenAI's own client and its agents use it."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.support.http_requests import LONG, post
from tests.support.serving import Running

GO = {
    "type": "function",
    "name": "go",
    "description": "Go.",
    "parameters": {
        "type": "object",
        "properties": {"fast": {"type": "boolean"}},
        "required": ["fast"],
        "additionalProperties": False,
    },
    "strict": True,
}
ASKED: dict[str, Any] = {"model": "any", "input": "yes the", "extra_body": {"seed": 4}}


class Reply(BaseModel):
    ok: bool
    word: Literal["yes", "no"]


def test_a_response_is_the_chats_answer(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASKED, max_output_tokens=20)
    chat = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "yes the"}], seed=4, max_tokens=20
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.model == "tiny"
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == chat.usage.completion_tokens == 20


@pytest.mark.parametrize("stored", [{}, {"store": True}, {"store": False}])
def test_nothing_is_kept(client: openai.OpenAI, stored: dict[str, bool]) -> None:
    response = client.responses.create(**ASKED, max_output_tokens=2, **stored)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="whole conversation"):
        client.responses.create(**ASKED, previous_response_id=response.id)


def test_a_stream_joins_to_the_whole(client: openai.OpenAI) -> None:
    whole = client.responses.create(**ASKED, max_output_tokens=20)
    events = list(client.responses.create(**ASKED, max_output_tokens=20, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == (
        whole.output_text
    )
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with client.responses.stream(**ASKED, max_output_tokens=20) as stream:
        assert [event.type for event in stream] == [event.type for event in events]


def test_events_have_names_and_no_end_mark(client: openai.OpenAI, server: Running) -> None:
    body = {"input": "the", "max_output_tokens": 3, "stream": True}
    text = client.post(f"{server.url}/v1/responses", body=body, cast_to=str)
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


@pytest.mark.parametrize("seed", range(3))
def test_a_reply_is_parsed(client: openai.OpenAI, seed: int) -> None:
    asked = {**ASKED, "extra_body": {"seed": seed}}
    parsed = client.responses.parse(**asked, text_format=Reply).output_parsed
    assert isinstance(parsed, Reply)
    with client.responses.stream(**asked, text_format=Reply) as stream:
        assert stream.get_final_response().output_parsed == parsed


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "go"}])
def test_a_call_and_its_result_go_to_and_fro(client: openai.OpenAI, choice: Any) -> None:
    asked = {**ASKED, "tools": [GO], "tool_choice": choice, "parallel_tool_calls": False}
    response = client.responses.create(**asked)
    (call,) = response.output
    assert (call.type, call.name, response.status) == ("function_call", "go", "completed")
    assert isinstance(json.loads(call.arguments)["fast"], bool)
    with client.responses.stream(**asked) as stream:
        (streamed,) = stream.get_final_response().output
        assert streamed.parsed_arguments == json.loads(call.arguments)
    said = [{"role": "user", "content": "yes"}, call.model_dump(exclude_none=True)]
    said.append({"type": "function_call_output", "call_id": call.call_id, "output": "gone"})
    again = client.responses.create(model="any", input=said, tools=[GO], max_output_tokens=3)
    assert again.output


def test_an_error_in_mid_stream_is_an_event(client: openai.OpenAI) -> None:
    grammar = '%llguidance {}\nstart: "ab" <[0]>'  # the unknown token, which is never sampled
    events = list(client.responses.create(**ASKED | {"extra_body": {"grammar": grammar}}, stream=True))
    assert events[-1].type == "error"
    assert "allows no token" in events[-1].message
    assert [event.sequence_number for event in events] == list(range(len(events)))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "input"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "dance": 1}, "dance"),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "item_reference"),
        ({"input": "the " * 5000}, "tokens"),
    ],
)
def test_wrong_requests_are_the_clients_errors(server: Running, body: dict[str, Any], words: str) -> None:
    status, answer, _ = post(server, "/v1/responses", {**body, "stream": True})
    assert status == 400
    assert words in answer["error"]["message"]


def test_a_client_that_leaves_frees_its_place(client: openai.OpenAI, server: Running) -> None:
    endless = {"seed": 1, "logit_bias": LONG["logit_bias"]}
    stream = client.responses.create(model="any", input="the", stream=True, extra_body=endless)
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    server.wait_until_idle()


def test_agents_call_functions_and_answer(server: Running) -> None:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    agents.set_tracing_disabled(True)
    called = []

    @agents.function_tool
    def go(fast: bool) -> str:
        """Go."""
        called.append(fast)
        return "gone"

    model = agents.OpenAIResponsesModel(
        "any", openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    )
    settings = agents.ModelSettings(tool_choice="required", extra_body={"seed": 4})
    agent = agents.Agent(
        name="A", model=model, tools=[go], model_settings=settings, tool_use_behavior="stop_on_first_tool"
    )
    assert agents.Runner.run_sync(agent, "yes the").final_output == "gone"
    assert len(called) == 1
    typed = agents.Agent(name="B", model=model, output_type=Reply)
    assert isinstance(agents.Runner.run_sync(typed, "yes the").final_output, Reply)
