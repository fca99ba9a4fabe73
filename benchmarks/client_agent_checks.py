"""Checks of agents, which call tools until they have an answer, and of programs."""

# most clients are not installed where mypy runs
# mypy: disable-error-code="import-not-found, untyped-decorator"

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from client_under_test import ASKED, KEY, QUESTION, WANTED, City, Weather, check, same


def ran(command: list[str], **options: Any) -> str:
    """What a command printed. Raises AssertionError with its end if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    return done.stdout


def beside_python(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@check("pydantic-ai-slim")
def pydantic_ai(url: str) -> None:
    """agent: text, stream; typed output by a tool and by `NativeOutput`; a tool; by chats and by Responses"""
    from pydantic_ai import Agent, NativeOutput, PromptedOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def ask(model: Any) -> None:
        agent = Agent(model, model_settings=settings)
        async with agent.run_stream(QUESTION) as stream:
            pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
        same((await agent.run(QUESTION)).output, pieces)
        for output in (City, NativeOutput(City), PromptedOutput(City)):
            typed: Any = Agent(model, output_type=output, model_settings=settings)
            assert isinstance((await typed.run(WANTED)).output, City)
        tool = Weather()
        agent = Agent(model, tools=[tool.weather], model_settings=settings)
        assert (await agent.run(ASKED)).output
        assert tool.asked

    settings: Any = {"temperature": 0, "max_tokens": 100}
    for model in (OpenAIChatModel, OpenAIResponsesModel):
        asyncio.run(ask(model("any", provider=OpenAIProvider(base_url=url, api_key=KEY))))


@check("openai-agents")
def openai_agents(url: str) -> None:
    """agent: text, stream; typed output; a tool; a handoff; by chats and by Responses"""
    import agents
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)

    async def ask(model: Any) -> None:
        def agent(**options: Any) -> Any:
            return agents.Agent(name="agent", model=model, model_settings=settings, **options)

        run = agents.Runner.run_streamed(agent(), QUESTION)
        events = [event async for event in run.stream_events() if event.type == "raw_response_event"]
        deltas = [e.data.delta for e in events if e.data.type == "response.output_text.delta"]
        same((await agents.Runner.run(agent(), QUESTION)).final_output, deltas)
        assert isinstance((await agents.Runner.run(agent(output_type=City), WANTED)).final_output, City)
        tool = Weather()
        helper = agent(tools=[agents.function_tool(tool.weather)])
        await agents.Runner.run(helper, ASKED)
        assert tool.asked
        forced = agents.ModelSettings(
            temperature=0, max_tokens=100, tool_choice="required", parallel_tool_calls=False
        )
        first = agents.Agent(name="first", model=model, model_settings=forced, handoffs=[agent()])
        assert (await agents.Runner.run(first, QUESTION)).last_agent.name == "agent"

    settings = agents.ModelSettings(temperature=0, max_tokens=100)
    for model in (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel):
        client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
        asyncio.run(ask(model(model="any", openai_client=client)))


@check("smolagents")
def smolagents(url: str) -> None:
    """text, stream; `ToolCallingAgent` calls a tool; `CodeAgent`, streamed and with structured output"""
    from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool

    used = Weather()

    @tool
    def weather(city: str) -> str:
        """Return the weather in a city.

        Args:
            city: The name of the city.
        """
        return used.weather(city)

    model = OpenAIModel("any", api_base=url, api_key=KEY, temperature=0, max_tokens=120)
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    pieces = [delta.content for delta in model.generate_stream(messages)]
    same(str(model.generate(messages).content), pieces)
    asked: Any = {"tools": [weather], "model": model, "max_steps": 2, "verbosity_level": 0}
    ToolCallingAgent(**asked).run(ASKED)
    assert used.asked
    for options in ({}, {"use_structured_outputs_internally": True}, {"stream_outputs": True}):
        agent = CodeAgent(**asked, **options)
        assert agent.run("What is 2 + 3?") is not None
        assert not any(type(step).__name__ == "AgentGenerationError" for step in agent.memory.steps)


@check("aider-chat")
def aider(url: str) -> None:
    """`--model openai/any`: a question, streamed and not"""
    with TemporaryDirectory() as folder:
        settings = Path(folder, "settings.yml")
        settings.write_text("- name: openai/any\n  extra_params:\n    max_tokens: 80\n    temperature: 0\n")
        command = [
            beside_python("aider"), "--model", "openai/any", "--openai-api-base", url,
            "--openai-api-key", KEY, "--model-settings-file", str(settings), "--edit-format", "ask",
            "--no-git", "--yes-always", "--no-show-model-warnings", "--no-check-update", "--no-analytics",
            "--no-pretty", "--message", QUESTION,
        ]  # fmt: skip
        assert "Paris" in ran(command, cwd=folder)
        assert "Paris" in ran([*command, "--no-stream"], cwd=folder)


@check("llm")
def llm(url: str) -> None:
    """the command: a prompt, streamed and not; a schema; a tool"""
    with TemporaryDirectory() as folder:
        Path(folder, "extra-openai-models.yaml").write_text(
            f"- model_id: edge\n  model_name: any\n  api_base: {url}\n  supports_schema: true\n"
            "  supports_tools: true\n"
        )
        command = [
            beside_python("llm"),
            "prompt",
            "-m",
            "edge",
            "-o",
            "temperature",
            "0",
            "-o",
            "max_tokens",
            "60",
        ]
        options: Any = {"env": {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": KEY}}
        same(ran([*command, QUESTION], **options), [ran([*command, "--no-stream", QUESTION], **options), ""])
        City.model_validate_json(
            ran([*command, "--schema", json.dumps(City.model_json_schema()), WANTED], **options)
        )
        tool = (
            "def weather(city: str) -> str:\n 'The weather in a city'\n print('rains')\n return 'It rains.'"
        )
        assert "rains" in ran([*command, "--functions", tool, "--chain-limit", "0", ASKED], **options)
