"""Code written for llama-cpp-python runs unchanged, and what is not supported is refused."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from pass_edge import ContextFullError, Engine, Llama, ModelError, Settings, SettingsError
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest
from tests.support.chat_requests import GO, MESSAGES


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
        assert ours or not theirs, place
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
    theirs = one["tokens"]  # at the limit, it leaves bytes out that are no whole letter
    ours = ["" if token.startswith("bytes:") else token for token in other["tokens"]]
    same = next(
        (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len({*pair}) > 1), len(theirs)
    )
    assert same > 3
    # our kernels add up in another order, so tokens may change places where they are nearly tied
    assert other["token_logprobs"][: same + 1] == pytest.approx(one["token_logprobs"][: same + 1], abs=0.1)


@pytest.mark.parametrize("method", ["create_completion", "create_chat_completion"])
def test_parameters_have_llama_cpp_pythons_names_order_and_defaults(method: str) -> None:
    theirs = list(inspect.signature(getattr(llama_cpp.Llama, method)).parameters.values())
    ours = list(inspect.signature(getattr(Llama, method)).parameters.values())
    assert ours == list(inspect.signature(getattr(Llama, f"a{method}")).parameters.values())
    for their, our in zip(theirs, ours, strict=False):
        assert our.name == their.name
        assert our.default == their.default or (not our.default and not their.default)
    request = ChatCompletionRequest if "chat" in method else CompletionRequest
    further = {each.name for each in fields(request)} - {each.name for each in theirs}
    assert {parameter.name for parameter in ours[len(theirs) :]} == further >= {"n", "stream_options"}


@pytest.mark.parametrize(
    "given",
    [
        {"suffix": "x"},  # of a model that cannot fill in
        {"typical_p": 0.5},
        {"tfs_z": 0.9},
        {"mirostat_mode": 2},
        {"logits_processor": [5]},
        {"stopping_criteria": "len"},
        {"n": 0},
        {"n": 1000},
        {"grammar": 3},
        {"grammar": "no grammar"},
        {"logit_bias": {99999: 1}},
        {"temperature": -1},
        {"logprobs": -1},
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


def test_parameters_may_be_given_by_position(speaking_path: Path) -> None:
    with Llama(str(speaking_path), n_threads=1, seed=1) as llm:
        assert llm("the", None, 5, 0)["choices"] == llm("the", max_tokens=5, temperature=0)["choices"]
        by_position = llm.create_chat_completion(MESSAGES, None, None, None, None, 0, max_tokens=5)
        by_name = asyncio.run(llm.acreate_chat_completion(MESSAGES, temperature=0, max_tokens=5))
        assert by_position["choices"] == by_name["choices"]
        with pytest.raises(TypeError, match="multiple values"):
            llm("the", None, 5, max_tokens=5)


def test_an_unknown_parameter_is_an_error(engine: Engine, speaking_path: Path) -> None:
    with pytest.raises(TypeError, match="dance"):
        complete(engine, CompletionRequest("x", dance=True))
    for wrong in ({"lora_path": "x"}, {"kv_overrides": {"x": 1}}, {"dance": 1}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            Llama(str(speaking_path), **wrong)
    unchanged = {"lora_path": None, "use_mlock": True, "rope_freq_base": 0.0, "n_batch": 64}
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
