"""LangChain runs on PaSS Edge: on the class Llama, and on the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_community.chat_models import ChatLlamaCpp
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from pass_edge import Engine, Llama
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest
from tests.support.chat_requests import GO
from tests.support.serving import serving

# -- the class Llama -------------------------------------------------------------------------------------


@pytest.fixture
def chain(speaking_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatLlamaCpp]:
    monkeypatch.setattr("llama_cpp.Llama", Llama)
    own_rope = {
        "rope_freq_base": 0.0,
        "rope_freq_scale": 0.0,
    }  # LangChain's defaults would overrule the model
    settings = {"n_ctx": 1024, "n_threads": 1, "max_tokens": 60, "seed": 3, **own_rope}
    model = ChatLlamaCpp(model_path=str(speaking_path), **settings)
    yield model
    model.client.close()


def test_langchain_gets_our_text(chain: ChatLlamaCpp) -> None:
    own = chain.client.create_chat_completion(
        [{"role": "user", "content": "the yes"}], **chain._get_parameters(stop=None)
    )
    text = own["choices"][0]["message"]["content"]
    chain.client.set_seed(3)  # every answer has the next seed of the sequence that this begins
    assert chain.invoke("the yes").content == text
    chain.client.set_seed(3)
    assert "".join(chunk.content for chunk in chain.stream("the yes")) == text


def test_langchain_calls_tools(chain: ChatLlamaCpp) -> None:
    caller = chain.bind_tools([GO], tool_choice={"type": "function", "function": {"name": "go"}})
    (call,) = caller.invoke("the yes").tool_calls
    assert call["name"] == "go"
    assert json.dumps(call["args"]) in ('{"fast": true}', '{"fast": false}')


# -- the server ------------------------------------------------------------------------------------------


ASKED = {"model": "any", "api_key": "any", "max_tokens": 40, "seed": 3, "temperature": 0.8}


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with serving(engine) as server:
        yield f"{server.url}/v1"


def own_text(engine: Engine) -> str:
    answer = complete(
        engine,
        ChatCompletionRequest(
            [{"role": "user", "content": "the yes"}], max_tokens=40, seed=3, temperature=0.8
        ),
    )
    return answer["choices"][0]["message"]["content"]


def test_langchain_is_answered_as_the_library_answers(url: str, engine: Engine) -> None:
    model = ChatOpenAI(base_url=url, stream_usage=True, **ASKED)
    message = model.invoke("the yes")
    assert message.content == own_text(engine)
    chunks = list(model.stream("the yes"))
    assert "".join(chunk.content for chunk in chunks) == message.content
    (usage,) = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usage["total_tokens"] == message.usage_metadata["total_tokens"] > 0


def test_langchain_asks_several_at_once(url: str, engine: Engine) -> None:
    model = ChatOpenAI(base_url=url, **ASKED)
    assert [message.content for message in model.batch(["the yes"] * 3)] == [own_text(engine)] * 3
    assert asyncio.run(model.ainvoke("the yes")).content == own_text(engine)


def test_langchain_goes_on_with_a_prompt(url: str, engine: Engine) -> None:
    # its class for completions asks for top_p 1, where ours is 0.95
    own = complete(engine, CompletionRequest("the yes", max_tokens=40, seed=3, temperature=0.8, top_p=1))
    assert OpenAI(base_url=url, **ASKED).invoke("the yes") == own["choices"][0]["text"]


def test_langchain_calls_tools_of_the_server(url: str) -> None:
    caller = ChatOpenAI(base_url=url, **ASKED | {"max_tokens": 200}).bind_tools([GO], tool_choice="go")
    (call,) = caller.invoke("the yes").tool_calls
    assert call["name"] == "go"
    assert call["args"] in ({"fast": True}, {"fast": False})


class Going(BaseModel):
    fast: bool


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_what_its_schema_asks_for(url: str, method: str) -> None:
    model = ChatOpenAI(base_url=url, **ASKED | {"max_tokens": 200}).with_structured_output(
        Going, method=method
    )
    assert isinstance(model.invoke("the yes"), Going)
