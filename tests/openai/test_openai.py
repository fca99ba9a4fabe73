"""The library as code for llama-cpp-python uses it: its names, its results, and nothing passed over in
silence."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from pass_edge import ContextFullError, Engine, Llama, LlamaGrammar, ModelError, Settings, SettingsError
from pass_edge.native.chat_template import CHATML
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.openai.complete import acomplete, complete
from pass_edge.openai.messages import plain_messages
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest
from pass_edge.openai.tools import ToolCallParser

MESSAGES = [{"role": "user", "content": "yes the"}]
GO = {
    "type": "function",
    "function": {
        "name": "go",
        "parameters": {
            "type": "object",
            "properties": {"fast": {"$ref": "#/$defs/flag"}},
            "required": ["fast"],
            "$defs": {"flag": {"type": "boolean"}},
        },
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}


@pytest.fixture(scope="module")
def engine(speaking_path: Path) -> Iterator[Engine]:
    with Engine(speaking_path, settings=Settings(threads=1, context_size=1024)) as engine:
        yield engine


# -- the import is all that changes --------------------------------------------------------------------


def program(module: Any, path: Path, **only_ours: Any) -> dict[str, Any]:
    """What somebody wrote for llama-cpp-python."""
    llm = module.Llama(
        model_path=str(path),
        n_ctx=512,
        n_threads=1,
        logits_all=True,
        flash_attn=True,
        verbose=False,
        **only_ours,
    )
    grammar = module.LlamaGrammar.from_string('root ::= "[" ("yes" | "no") "]"', verbose=False)
    results = {
        "text": llm("the ", max_tokens=12, temperature=0, logprobs=2, echo=False, stop=["\x00"]),
        "chat": llm.create_chat_completion(
            MESSAGES, max_tokens=12, temperature=0.0, logprobs=True, top_logprobs=1
        ),
        "chunks": list(llm.create_completion("the ", max_tokens=12, temperature=0, stream=True)),
        "chat chunks": list(llm.create_chat_completion(MESSAGES, max_tokens=12, temperature=0, stream=True)),
        "grammar": llm.create_completion(
            "Say: ", grammar=grammar, max_tokens=50, seed=2, logit_bias={270: 5.0}
        ),
        "json": llm.create_chat_completion(
            MESSAGES,
            response_format={"type": "json_object", "schema": {"enum": ["yes", "no"]}},
            max_tokens=30,
        ),
        "tokens": llm.tokenize("yes é".encode(), add_bos=False),
    }
    results["bytes"] = llm.detokenize(results["tokens"])
    results["sizes"] = [llm.n_ctx(), llm.n_vocab(), llm.token_bos(), llm.token_eos()]
    llm.close()
    return results


@pytest.fixture(scope="module")
def both(speaking_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import pass_edge

    cache = Settings(context_size=512, threads=1, gpu_layers=0, cache_type_k="f16", cache_type_v="f16")
    return program(llama_cpp, speaking_path), program(pass_edge, speaking_path, settings=cache)


def shape_is_within(theirs: Any, ours: Any, place: str = "") -> None:
    """Every key of theirs is in ours, with a value of the same type."""
    if place.endswith(".logprobs.top_logprobs"):  # the keys are tokens
        assert all(isinstance(value, float) for each in ours for value in each.values())
    elif isinstance(theirs, dict):
        assert set(theirs) <= set(ours), place
        for key in theirs:
            shape_is_within(theirs[key], ours[key], f"{place}.{key}")
    elif isinstance(theirs, list):
        assert isinstance(ours, list), place
        for i, (one, other) in enumerate(zip(theirs, ours, strict=False)):
            shape_is_within(one, other, f"{place}[{i}]")
    else:
        kind = float if isinstance(theirs, np.floating) else type(theirs)
        assert theirs is None or isinstance(ours, kind), place


@pytest.mark.parametrize("what", ["text", "chat", "grammar", "json"])
def test_results_have_llama_cpp_pythons_shape(what: str, both: tuple[dict, dict]) -> None:
    theirs, ours = (each[what] for each in both)
    shape_is_within(theirs, ours)


@pytest.mark.parametrize("what", ["chunks", "chat chunks"])
def test_chunks_have_llama_cpp_pythons_shape(what: str, both: tuple[dict, dict]) -> None:
    theirs, ours = (each[what] for each in both)
    for which in (1, -1):
        shape_is_within(theirs[which], ours[which])


def test_greedy_text_is_llama_cpp_pythons(both: tuple[dict, dict]) -> None:
    theirs, ours = both
    assert ours["tokens"] == theirs["tokens"]
    assert ours["bytes"] == theirs["bytes"] == "yes é".encode()
    assert ours["sizes"] == theirs["sizes"]
    one, other = (each["text"]["choices"][0]["logprobs"] for each in both)
    count = len(one["tokens"])  # at the limit, it leaves bytes out that are no whole letter
    assert count > 6
    assert [token.replace("\ufffd", "") for token in other["tokens"][:count]] == one["tokens"]
    assert other["token_logprobs"][:count] == pytest.approx(one["token_logprobs"], abs=1e-3)


@pytest.mark.parametrize("method", ["create_completion", "create_chat_completion"])
def test_parameters_have_llama_cpp_pythons_names_order_and_defaults(method: str) -> None:
    theirs = list(inspect.signature(getattr(llama_cpp.Llama, method)).parameters.values())
    ours = list(inspect.signature(getattr(Llama, method)).parameters.values())
    assert ours == list(inspect.signature(getattr(Llama, f"a{method}")).parameters.values())
    for their, our in zip(theirs, ours, strict=False):
        assert our.name == their.name
        assert our.default == their.default or (not our.default and not their.default)
    assert [parameter.name for parameter in ours[len(theirs) :]] == ["n", "stream_options"]


@pytest.mark.parametrize(
    "given",
    [
        {"suffix": "x"},
        {"typical_p": 0.5},
        {"tfs_z": 0.9},
        {"mirostat_mode": 2},
        {"logits_processor": [len]},
        {"stopping_criteria": [len]},
        {"n": 0},
        {"n": 1000},
        {"grammar": 3},
        {"grammar": "no grammar"},
        {"logit_bias": {99999: 1}},
        {"temperature": -1},
        {"logprobs": -1},
        {"echo": True, "logprobs": 1},
    ],
)
def test_what_is_not_supported_is_refused(engine: Engine, given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        complete(engine, CompletionRequest("x", **given))


@pytest.mark.parametrize(
    "given",
    [
        {"functions": [{"name": "go"}]},
        {"tools": [{"go": 1}]},
        {"tool_choice": "required"},
        {"tools": [GO], "tool_choice": {"function": {"name": "fly"}}},
        {"tools": [GO], "tool_choice": "sometimes"},
        {"tools": [GO], "tool_choice": "required", "grammar": 'root ::= "a"'},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"messages": []},
        {"messages": ["hi"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"messages": [{"role": "user", "content": 5}]},
    ],
)
def test_chats_that_make_no_sense_are_refused(engine: Engine, given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        complete(engine, ChatCompletionRequest(**{"messages": MESSAGES, **given}))


def test_an_unknown_parameter_is_an_error(engine: Engine, speaking_path: Path) -> None:
    with pytest.raises(TypeError, match="dance"):
        complete(engine, CompletionRequest("x", dance=True))
    for wrong in ({"lora_path": "x"}, {"use_mlock": True}, {"dance": None}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            Llama(str(speaking_path), **wrong)
    unchanged = {"lora_path": None, "use_mlock": False, "rope_freq_base": 0.0, "n_batch": 64}
    Llama(str(speaking_path), n_threads=1, **unchanged).close()


def test_what_llama_cpp_would_abort_on_is_an_error(speaking_path: Path, tiny_path: Path) -> None:
    with Llama(str(speaking_path), n_threads=1) as llm, pytest.raises(ModelError, match="no token"):
        llm.detokenize([10**6])
    with Engine(tiny_path, settings=Settings(threads=1)) as engine:
        told = complete(engine, CompletionRequest([1, 2], logprobs=2, max_tokens=3))["choices"][0]
    assert len(told["logprobs"]["token_logprobs"]) == 3  # and no text


def test_an_empty_prompt_begins_a_text(engine: Engine) -> None:
    assert complete(engine, CompletionRequest("", max_tokens=2))["usage"]["prompt_tokens"] == 1


def test_a_prompt_that_does_not_fit_is_a_value_error(engine: Engine) -> None:
    with pytest.raises(ValueError, match="1024") as caught:
        complete(engine, CompletionRequest("the " * 1024))
    assert isinstance(caught.value, ContextFullError)


def test_parameters_may_be_given_by_position(speaking_path: Path) -> None:
    with Llama(str(speaking_path), n_threads=1, seed=1) as llm:
        assert llm("the", None, 5, 0)["choices"] == llm("the", max_tokens=5, temperature=0)["choices"]
        chat = llm.create_chat_completion(MESSAGES, None, None, None, None, 0, max_tokens=5)
        assert (
            chat["choices"]
            == asyncio.run(llm.acreate_chat_completion(MESSAGES, temperature=0, max_tokens=5))["choices"]
        )
        with pytest.raises(TypeError, match="multiple values"):
            llm("the", None, 5, max_tokens=5)


# -- what the results say -------------------------------------------------------------------------------


def text_of(chunks: Any) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def test_chunks_join_to_the_whole(engine: Engine) -> None:
    for options in ({"stop": "e"}, {"stop": [" true", "x"]}, {"logprobs": 2}, {"echo": True}):
        asked = {"prompt": "the yes", "max_tokens": 40, "seed": 5, **options}
        whole = complete(engine, CompletionRequest(**asked))
        chunks = list(
            complete(engine, CompletionRequest(**asked, stream=True, stream_options={"include_usage": True}))
        )
        assert text_of(chunks) == whole["choices"][0]["text"]
        assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
        for key in ("prompt_tokens", "completion_tokens"):
            assert chunks[-1]["usage"][key] == whole["usage"][key]
        if "logprobs" in options:
            told = [chunk["choices"][0]["logprobs"] for chunk in chunks[:-1]]
            for key in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
                joined = [each for part in told if part for each in part[key]]
                assert joined == whole["choices"][0]["logprobs"][key]


def test_choices_have_seeds_of_their_own(engine: Engine) -> None:
    three = complete(engine, CompletionRequest("the yes", max_tokens=20, seed=5, n=3))
    alone = [complete(engine, CompletionRequest("the yes", max_tokens=20, seed=5 + i)) for i in range(3)]
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert [choice["text"] for choice in three["choices"]] == [one["choices"][0]["text"] for one in alone]
    assert three["usage"]["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in alone)
    assert three["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]


def test_a_seed_of_minus_one_is_drawn(engine: Engine, speaking_path: Path) -> None:
    def texts(create: Any, **seed: int) -> set[str]:
        return {create("the", max_tokens=20, **seed)["choices"][0]["text"] for _ in range(4)}

    def own(prompt: str, **parameters: Any) -> Any:
        return complete(engine, CompletionRequest(prompt, **parameters))

    assert len(texts(own, seed=-1)) == 4
    assert len(texts(own, seed=7)) == 1
    for seed, different in ((-1, 4), (0xFFFFFFFF, 4), (7, 1)):
        with Llama(str(speaking_path), n_threads=1, seed=seed) as llm:
            assert len(texts(llm)) == different
            assert len(texts(llm, seed=3)) == 1


def test_several_prompts_are_answered_in_order(engine: Engine) -> None:
    prompts = ["the yes", "no"]
    got = complete(engine, CompletionRequest(prompts, max_tokens=10, temperature=0))
    alone = [complete(engine, CompletionRequest(each, max_tokens=10, temperature=0)) for each in prompts]
    assert [choice["text"] for choice in got["choices"]] == [one["choices"][0]["text"] for one in alone]
    ids = [engine.tokenize(each) for each in prompts]
    again = complete(engine, CompletionRequest(ids, max_tokens=10, temperature=0))
    assert again["choices"] == got["choices"]


def test_usage_tells_what_drafting_did(engine: Engine) -> None:
    usage = complete(engine, CompletionRequest("a" * 50, max_tokens=60, logit_bias={3 + ord("a"): 100.0}))[
        "usage"
    ]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 60
    draft = usage["draft"]
    assert 0 < draft["accepted_tokens"] <= draft["drafted_tokens"]
    assert draft["tokens_per_pass"] == pytest.approx(60 / draft["passes"])
    assert draft["tokens_per_second"] > 0
    again = complete(engine, CompletionRequest("a" * 50, max_tokens=1))["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_the_async_form_gives_the_same(engine: Engine) -> None:
    async def main() -> tuple[Any, Any, str]:
        whole, chat = await asyncio.gather(
            acomplete(engine, CompletionRequest("the yes", max_tokens=20, seed=5)),
            acomplete(engine, ChatCompletionRequest(MESSAGES, max_tokens=20, seed=5)),
        )
        chunks = await acomplete(engine, CompletionRequest("the yes", max_tokens=20, seed=5, stream=True))
        return whole, chat, text_of([chunk async for chunk in chunks])

    whole, chat, streamed = asyncio.run(main())
    assert (
        whole["choices"] == complete(engine, CompletionRequest("the yes", max_tokens=20, seed=5))["choices"]
    )
    assert (
        chat["choices"] == complete(engine, ChatCompletionRequest(MESSAGES, max_tokens=20, seed=5))["choices"]
    )
    assert streamed == whole["choices"][0]["text"]


# -- tools ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "go"}}])
def test_a_forced_call_matches_its_schema(engine: Engine, choice: Any) -> None:
    for seed in range(3):
        asked = {
            "messages": MESSAGES,
            "tools": [GO, STOP],
            "tool_choice": choice,
            "seed": seed,
            "max_tokens": 150,
        }
        answer = complete(engine, ChatCompletionRequest(**asked))["choices"][0]
        if answer["finish_reason"] == "length":  # stop takes any object, which may never end
            assert choice == "required"
            continue
        assert answer["finish_reason"] == "tool_calls"
        (call,) = answer["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "go":
            assert isinstance(arguments["fast"], bool)
        chunks = list(complete(engine, ChatCompletionRequest(**asked, stream=True)))
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        (streamed,) = [
            call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())
        ]
        assert streamed["function"] == call["function"]
        assert not any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)


def test_the_template_is_shown_the_tools(engine: Engine) -> None:
    free = complete(engine, ChatCompletionRequest(MESSAGES, max_tokens=1))["usage"]["prompt_tokens"]
    with_tools = complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO], max_tokens=1))["usage"][
        "prompt_tokens"
    ]
    without = complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO], tool_choice="none", max_tokens=1))[
        "usage"
    ]
    assert with_tools > free == without["prompt_tokens"]


def test_a_message_without_content_is_an_empty_one(engine: Engine) -> None:
    said = [{"role": "user", "content": "Go."}, {"role": "assistant"}, {"role": "user", "content": "On."}]
    empty, none = (engine.render([said[0], said[1] | {"content": c}, said[2]]) for c in ("", None))
    assert empty == none == engine.render(said)


def test_a_template_without_tools_chooses_none(tmp_path: Path) -> None:
    path = write_tiny_model(
        tmp_path / "m.gguf", n_embd=64, n_head=2, n_ff=128, words=[], chat_template=CHATML
    )
    with Engine(path, settings=Settings(schedule="plain", threads=1)) as engine:
        with pytest.raises(SettingsError, match="has no tools"):
            complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO]))
        forced = complete(engine, ChatCompletionRequest(MESSAGES, tools=[GO], tool_choice="required", seed=1))
    (call,) = forced["choices"][0]["message"]["tool_calls"]
    assert set(json.loads(call["function"]["arguments"])) == {"fast"}


CALL = '{"name": "go", "arguments": {"fast": true}}'


@pytest.mark.parametrize(
    ("text", "shown", "names"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", "", ["go"]),
        (f"Well. <tool_call>{CALL}</tool_call>\n<tool_call>{CALL}", "Well. ", ["go", "go"]),
        (CALL.replace("arguments", "parameters"), "", ["go"]),
        (f"[{CALL}, {CALL}]", "", ["go", "go"]),
        ("no call < at <tool all", "no call < at <tool all", []),
        ('{"name": "fly", "arguments": {}}', '{"name": "fly", "arguments": {}}', []),
        ("<tool_call>{broken", "<tool_call>{broken", []),
        ("[1, 2]", "[1, 2]", []),
        (f"see {CALL}", f"see {CALL}", []),
        ("[" * 100_000, "[" * 100_000, []),
    ],
)
@pytest.mark.parametrize("pace", [1, 7, 10**9])
def test_calls_are_read_however_they_arrive(text: str, shown: str, names: list[str], pace: int) -> None:
    if len(text) > 1000 and pace == 1:
        pace = 1000
    reader = ToolCallParser(["go"])
    seen = "".join(reader.feed(text[i : i + pace]) for i in range(0, len(text), pace))
    rest, calls = reader.finish()
    assert seen + rest == shown
    assert [call["function"]["name"] for call in calls] == names
    assert all(json.loads(call["function"]["arguments"]) == {"fast": True} for call in calls)


def test_messages_reach_the_template_as_it_wants_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "go", "arguments": '{"fast": true}'}}
    got = plain_messages(
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "done"},
        ]
    )
    assert [message["content"] for message in got] == ["ab", "", "done"]
    assert got[1]["tool_calls"][0]["function"]["arguments"] == {"fast": True}
    assert got[2]["tool_call_id"] == "1"


# -- many short requests --------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_short_requests_leave_nothing_behind(
    engine: Engine, resident: Callable[[], int], many: int
) -> None:
    grammar = LlamaGrammar.from_string(
        'root ::= "[" ("yes" | "no" | [a-z]{1,40})+ "]"' + "\n# " + "x" * 20_000
    )

    def requests(count: int) -> int:
        for i in range(count):
            complete(
                engine,
                CompletionRequest(f"{i} the", max_tokens=3, seed=i, grammar=grammar if i % 2 else None),
            )
            next(
                iter(complete(engine, ChatCompletionRequest(MESSAGES, stream=True)))
            )  # dropped in the middle
        gc.collect()
        return resident()

    before = requests(150)
    after = requests(many)
    assert after - before < 4 << 20  # the grammars alone are 10 MB
    session = engine.session
    assert len(session.tokens) + session._passes._cache._gaps < 64
    assert session._context.last_position(0) == len(session.tokens) - 1
