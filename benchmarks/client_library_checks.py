"""Checks of libraries that send requests."""

# most clients are not installed where mypy runs
# mypy: disable-error-code="import-not-found, untyped-decorator"

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Literal

from client_under_test import ASKED, KEY, QUESTION, TOOL, WANTED, City, Weather, check, same


@check("openai")
def openai_chats(url: str) -> None:
    """chat, stream; `parse` of a pydantic model; a tool called, forced and not, streamed, its result read"""
    import openai

    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    chats = client.chat.completions
    asked: Any = {"model": "any", "temperature": 0, "max_tokens": 60}
    messages: Any = [{"role": "user", "content": QUESTION}]
    chunks = chats.create(messages=messages, stream=True, **asked)
    same(
        chats.create(messages=messages, **asked).choices[0].message.content,
        [chunk.choices[0].delta.content for chunk in chunks],
    )
    messages = [{"role": "user", "content": WANTED}]
    parsed = chats.parse(messages=messages, response_format=City, **asked).choices[0].message.parsed
    assert parsed
    assert parsed.city
    with chats.stream(messages=messages, response_format=City, **asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    messages = [{"role": "user", "content": ASKED}]
    chosen: Any
    for chosen in ("auto", "required", {"type": "function", "function": {"name": "weather"}}):
        tools: Any = {"tools": [TOOL], "tool_choice": chosen}
        with chats.stream(messages=messages, **tools, **asked) as events:
            message = events.get_final_completion().choices[0].message
        assert message.tool_calls, message
        assert message.tool_calls[0].function.name == "weather"
        call = message.tool_calls[0]
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "It rains."}]
    assert (
        chats.create(messages=messages, tools=[TOOL], tool_choice="none", **asked).choices[0].message.content
    )


@check("openai")
def openai_responses(url: str) -> None:
    """Responses: text, stream, `parse`, a tool and its result; completions; models; the async client"""
    import openai

    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    asked: Any = {"model": "any", "temperature": 0, "max_output_tokens": 60}
    with client.responses.stream(input=QUESTION, **asked) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    same(client.responses.create(input=QUESTION, **asked).output_text, pieces)
    assert client.responses.parse(input=WANTED, text_format=City, **asked).output_parsed
    tool: Any = {"type": "function", **TOOL["function"], "strict": False}
    items: Any = [{"role": "user", "content": ASKED}]
    output = client.responses.create(input=items, tools=[tool], tool_choice="required", **asked).output
    call: Any = output[-1]
    items += [*output, {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}]
    assert client.responses.create(input=items, tools=[tool], tool_choice="none", **asked).output_text
    assert client.completions.create(model="any", prompt="Paris is", max_tokens=4).choices[0].text
    assert client.models.retrieve(client.models.list().data[0].id).id

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as asynchronous:
            return (await asynchronous.responses.create(input=QUESTION, **asked)).output_text

    assert asyncio.run(ask()) == "".join(pieces)


@check("litellm")
def litellm(url: str) -> None:
    """chat, stream; a JSON schema; a forced tool, streamed; Responses; as `openai/…`, `hosted_vllm/…`"""
    import litellm as lite

    lite.suppress_debug_info = True
    for model in ("openai/any", "hosted_vllm/any"):
        asked: Any = {"model": model, "api_base": url, "api_key": KEY, "temperature": 0, "max_tokens": 60}
        messages = [{"role": "user", "content": QUESTION}]
        chunks = lite.completion(messages=messages, stream=True, **asked)
        pieces = [chunk.choices[0].delta.content for chunk in chunks]
        same(lite.completion(messages=messages, **asked).choices[0].message.content, pieces)
        messages = [{"role": "user", "content": WANTED}]
        answer = lite.completion(messages=messages, response_format=City, **asked)
        City.model_validate_json(answer.choices[0].message.content)
        tools: Any = {"tools": [TOOL], "tool_choice": "required"}
        messages = [{"role": "user", "content": ASKED}]
        chunks = list(lite.completion(messages=messages, stream=True, **tools, **asked))
        built: Any = lite.stream_chunk_builder(chunks, messages=messages)
        assert built.choices[0].message.tool_calls[0].function.name == "weather"
    answer = lite.responses(
        model="openai/any", input=QUESTION, api_base=url, api_key=KEY, temperature=0, max_output_tokens=60
    )
    assert answer.output[0].content[0].text == "".join(filter(None, pieces))


@check("instructor")
def instructor(url: str) -> None:
    """modes TOOLS, TOOLS_STRICT, PARALLEL_TOOLS, JSON, JSON_SCHEMA, MD_JSON; a partial object, streamed"""
    import instructor as asks
    import openai

    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    asked: Any = {"model": "any", "temperature": 0, "max_tokens": 100, "max_retries": 0}
    messages: Any = [{"role": "user", "content": WANTED}]
    for mode in ("TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON"):
        patched = asks.from_openai(client, mode=asks.Mode[mode])
        assert isinstance(patched.create(messages=messages, response_model=City, **asked), City), mode
        if mode in ("TOOLS", "JSON"):
            parts = list(patched.create_partial(messages=messages, response_model=City, **asked))
            assert parts[-1].city, mode
    parallel = asks.from_openai(client, mode=asks.Mode.PARALLEL_TOOLS)
    cities = parallel.create(messages=messages, response_model=Iterable[City], **asked)
    assert all(isinstance(city, City) for city in cities)


@check("langchain-openai")
def langchain(url: str) -> None:
    """chat, stream, batch; structured output in three methods; tools; completions; Responses"""
    from langchain_openai import ChatOpenAI, OpenAI

    for responses in (False, True):
        asked: Any = {"base_url": url, "api_key": KEY, "model": "any", "max_retries": 0, "temperature": 0}
        chat = ChatOpenAI(use_responses_api=responses, max_completion_tokens=60, **asked)
        same(chat.invoke(QUESTION).text, [chunk.text for chunk in chat.stream(QUESTION)])
        assert len(chat.batch([QUESTION, WANTED])) == 2
        for method in ("json_schema", "function_calling"):
            assert isinstance(chat.with_structured_output(City, method=method).invoke(WANTED), City)
        assert isinstance(chat.with_structured_output(method="json_mode").invoke(WANTED), dict)
        for choice in ("auto", "any", "weather"):
            called: Any = chat.bind_tools([TOOL], tool_choice=choice).invoke(ASKED)
            assert called.tool_calls[0]["name"] == "weather", called
    writer = OpenAI(max_tokens=8, **asked)
    assert writer.invoke("Paris is") == "".join(writer.stream("Paris is"))


@check("llama-index-llms-openai-like")
def llama_index(url: str) -> None:
    """`OpenAILike`: chat, stream, completions; structured prediction; a tool"""
    from llama_index.core.llms import ChatMessage
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    asked: Any = {"model": "any", "api_base": url, "api_key": KEY, "temperature": 0, "max_tokens": 60}
    chat = OpenAILike(is_chat_model=True, is_function_calling_model=True, max_retries=0, **asked)
    messages = [ChatMessage(role="user", content=QUESTION)]
    same(chat.chat(messages).message.content, [part.delta for part in chat.stream_chat(messages)])
    assert isinstance(chat.structured_predict(City, PromptTemplate(WANTED)), City)
    forced = OpenAILike(
        is_chat_model=True, is_function_calling_model=False, should_use_structured_outputs=True, **asked
    )
    assert isinstance(forced.structured_predict(City, PromptTemplate(WANTED)), City)
    tool = Weather()
    called = chat.predict_and_call([FunctionTool.from_defaults(tool.weather)], user_msg=ASKED)
    assert called.sources
    assert tool.asked
    writer = OpenAILike(is_chat_model=False, **asked)
    parts = list(writer.stream_complete("The capital of France is"))
    same(writer.complete("The capital of France is").text, [part.delta for part in parts])


@check("outlines")
def outlines(url: str) -> None:
    """`from_openai`: text, stream, a pydantic model; `from_vllm`: also a choice, a regex, a grammar"""
    import openai
    import outlines as lines
    from outlines.types import CFG, Regex

    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    asked: Any = {"temperature": 0, "max_tokens": 60}
    for model in (lines.from_openai(client, "any"), lines.from_vllm(client, "any")):
        same(model(QUESTION, **asked), list(model.stream(QUESTION, **asked)))
        City.model_validate_json(model(WANTED, City, **asked))
    assert model(QUESTION, Literal["Paris", "Rome"], **asked) in ("Paris", "Rome")
    assert model("A year?", Regex(r"(19|20)[0-9]{2}"), **asked)[:2] in ("19", "20")
    assert set(model("Digits?", CFG('start: "1" "2"+ "3"'), **asked)) == set("123")


@check("guidance")
def guidance(url: str) -> None:
    """`OpenAI`: JSON by a schema; `VLLMModel`: a choice, text and a regex within one answer"""
    import guidance as guide
    from guidance.models import OpenAI
    from guidance.models.experimental import VLLMModel

    model = OpenAI("any", base_url=url, api_key=KEY, echo=False)
    with guide.user():
        model += WANTED
    with guide.assistant():
        model += guide.json("made", schema=City, temperature=0, max_tokens=60)
    City.model_validate_json(model["made"])
    model = VLLMModel("any", base_url=url, api_key=KEY, echo=False)
    with guide.user():
        model += QUESTION
    with guide.assistant():
        model += (
            guide.select(["Paris", "Rome"], name="choice") + " in " + guide.regex("[0-9]{4}", name="year")
        )
    assert model["choice"] in ("Paris", "Rome")
    assert model["year"].isdigit()
