"""Every public name and parameter of `llama_cpp.Llama` is there, or says in a sentence why it is not."""

from __future__ import annotations

import gc
import inspect
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from langchain_community.llms import LlamaCpp
from llama_cpp.llama_chat_format import register_chat_completion_handler
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from pass_edge import Llama, ModelError, SettingsError
from pass_edge.native.errors import UnsupportedError
from pass_edge.native.tiny_model import write_tiny_model
from pass_edge.openai.llama_parameters import DEFAULTS, REASONS, SUPPORTED, WITHOUT_EFFECT, settings_of
from tests.support.chat_requests import GO, MESSAGES
from tests.support.command_line import assert_refused, run

ASKED = {"max_tokens": 6, "temperature": 0.0}


@pytest.fixture(scope="module")
def llm(speaking_path: Path) -> Iterator[Llama]:
    with Llama(str(speaking_path), n_ctx=256, n_threads=1, seed=1, verbose=False) as llm:
        yield llm


@pytest.fixture(scope="module")
def theirs(speaking_path: Path) -> Iterator[llama_cpp.Llama]:
    llm = llama_cpp.Llama(str(speaking_path), n_ctx=256, n_threads=1, verbose=False)
    yield llm
    llm.close()


# -- names -----------------------------------------------------------------------------------------------


def test_every_public_name_is_there_or_says_why_not(llm: Llama, theirs: llama_cpp.Llama) -> None:
    names = {name for name in (*dir(theirs), *vars(theirs)) if not name.startswith("_")}
    assert len(names) > 50
    missing = {name for name in names - {"scores", "eval_logits"} if not hasattr(llm, name)}
    assert missing == names & set(REASONS) - {"tokenizer", "lora_base", "lora_path", "lora_scale"}
    for name in missing:
        with pytest.raises(UnsupportedError, match=f"Llama.{name} is not supported here: ."):
            getattr(llm, name)
    with pytest.raises(AttributeError, match="no attribute 'dance'"):
        _ = llm.dance


@pytest.mark.parametrize("name", ["_ctx", "_model", "ctx"])
def test_what_cannot_be_had_names_a_way_out(llm: Llama, name: str) -> None:
    with pytest.raises(SettingsError, match="eval, sample, generate"):
        getattr(llm, name)


@pytest.mark.parametrize("name", ["scores", "_scores", "eval_logits"])
def test_logits_of_all_tokens_need_logits_all(llm: Llama, name: str) -> None:
    with pytest.raises(SettingsError, match="logits_all=True"):
        getattr(llm, name)


def test_methods_have_the_same_parameters(llm: Llama) -> None:
    for name, method in inspect.getmembers(llama_cpp.Llama, inspect.isroutine):
        if name.startswith("_") or name in REASONS:
            continue
        their, our = (inspect.signature(each) for each in (method, getattr(Llama, name)))
        assert [*our.parameters][: len(their.parameters)] == [*their.parameters], name
        for parameter in their.parameters.values():
            if parameter.default is not parameter.empty:
                assert (our.parameters[parameter.name].default or None) == (parameter.default or None), name


# -- the constructor -------------------------------------------------------------------------------------


def test_the_constructor_shows_all_parameters() -> None:
    their, our = (inspect.signature(each).parameters for each in (llama_cpp.Llama, Llama))
    assert {name: each.default for name, each in their.items()}.items() <= {
        name: each.default for name, each in our.items()
    }.items()


OTHER = {
    "split_mode": 0, "main_gpu": 1, "tensor_split": [1.0], "kv_overrides": {"a": 1}, "rope_scaling_type": 1,
    "attention_type": 1, "rope_freq_base": 7.0, "rope_freq_scale": 0.5, "yarn_ext_factor": 1.0,
    "yarn_attn_factor": 2.0, "yarn_beta_fast": 1.0, "yarn_beta_slow": 2.0, "yarn_orig_ctx": 9,
    "embedding": True, "lora_base": "x", "lora_scale": 0.5, "lora_path": "x", "spm_infill": True,
    "tokenizer": object(),
}  # fmt: skip
WITHOUT = {
    "n_batch": 8, "n_ubatch": 8, "n_threads_batch": 1, "use_mmap": False, "use_mlock": True,
    "flash_attn": True, "offload_kqv": False, "op_offload": True, "swa_full": True, "no_perf": True,
    "numa": True, "draft_model": LlamaPromptLookupDecoding(num_pred_tokens=2), "vocab_only": True,
    "pooling_type": 1, "n_parts": -1, "f16_kv": True, "low_vram": True, "n_gqa": 8, "mul_mat_q": True,
}  # fmt: skip


def test_every_parameter_is_supported_refused_or_without_effect() -> None:
    known = {*inspect.signature(llama_cpp.Llama).parameters} - {"model_path", "kwargs"}
    assert known <= SUPPORTED | WITHOUT_EFFECT | set(OTHER)
    assert set(WITHOUT) == WITHOUT_EFFECT


@pytest.mark.parametrize("name", sorted(OTHER))
def test_a_parameter_that_would_change_the_text_is_refused_by_name(name: str, speaking_path: Path) -> None:
    with pytest.raises(ValueError, match=name):
        Llama(str(speaking_path), **{name: OTHER[name]})


def test_other_parameters_change_nothing(llm: Llama, speaking_path: Path) -> None:
    # LangChain's rope settings are this model's own
    own_rope = {"rope_freq_base": 10000.0, "rope_freq_scale": 1.0}
    with Llama(speaking_path, n_ctx=256, n_threads=1, **WITHOUT, **own_rope) as other:
        assert other("the ", **ASKED)["choices"] == llm("the ", **ASKED)["choices"]
        assert other.n_batch == 8
        assert other.draft_model is WITHOUT["draft_model"]


def test_a_kv_cache_type_is_llama_cpps_number(speaking_path: Path) -> None:
    settings = settings_of(
        {**DEFAULTS, "type_k": llama_cpp.GGML_TYPE_F16, "type_v": llama_cpp.GGML_TYPE_Q8_0}
    )
    assert (settings.cache_type_k, settings.cache_type_v) == ("f16", "q8_0")
    with pytest.raises(SettingsError, match="99; known are 0 "):
        Llama(speaking_path, type_k=99)


def test_a_context_of_0_is_the_models_own(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "wide.gguf", n_ctx=5000, words=["yes"], n_embd=64, n_head=2, n_layer=1)
    for n_ctx, size in ((0, 5000), (64, 64), (None, 4096)):
        with Llama(path, n_ctx=n_ctx, n_threads=1) as llm:
            assert llm.n_ctx() == llm.context_params.n_ctx == size
    for option, size in ((("--ctx-size", "0"), 5000), ((), 4096)):
        result = run("generate", "--raw", "x" * 6000, "--model", str(path), *option)
        assert_refused(result, f"the context holds {size}")


def test_a_missing_or_broken_model_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    for path in (tmp_path / "missing.gguf", tmp_path / "text.gguf", tmp_path):
        with pytest.raises(ValueError, match=str(path)) as caught:
            Llama(model_path=str(path))
        assert isinstance(caught.value, ModelError)


def test_a_context_that_does_not_fit_is_a_value_error(speaking_path: Path) -> None:
    with pytest.raises(ValueError, match="GiB"):  # txtai then asks for a smaller one
        Llama(speaking_path, n_ctx=10**9)


# -- life cycle ------------------------------------------------------------------------------------------


def test_pickle_makes_another_one_of_the_same_arguments(speaking_path: Path) -> None:
    llm = Llama(speaking_path, n_ctx=128, n_threads=1, seed=3)
    with llm, pickle.loads(pickle.dumps(llm)) as copy:
        assert copy.n_ctx() == 128
        assert copy("the ", max_tokens=8)["choices"] == llm("the ", max_tokens=8)["choices"]


def test_one_that_nobody_uses_frees_its_memory(speaking_path: Path) -> None:
    llm = Llama(speaking_path, n_threads=1)
    engine, gone = llm.engine, weakref.ref(llm)
    chunks = llm("the ", max_tokens=3, stream=True)
    next(chunks)
    del llm
    gc.collect()
    assert gone()  # the chunks still need it
    assert [*chunks][-1]["choices"][0]["finish_reason"] == "length"
    del chunks
    gc.collect()
    assert not gone()
    with pytest.raises(SettingsError, match="closed"):
        engine.check()


# -- chats -----------------------------------------------------------------------------------------------


def test_openais_own_objects(llm: Llama) -> None:
    text = llm.create_chat_completion(MESSAGES, **ASKED)["choices"][0]["message"]["content"]
    answer = llm.create_chat_completion_openai_v1(MESSAGES, **ASKED)
    assert answer.choices[0].message.content == text
    chunks = llm.create_chat_completion_openai_v1(messages=MESSAGES, stream=True, **ASKED)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


@pytest.mark.parametrize("chat_format", ["llama-2", "chatml", "gemma", "mistral-instruct"])
def test_chat_formats_are_llama_cpp_pythons(
    chat_format: str, llm: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Any] = []
    whole = llm.create_completion
    monkeypatch.setattr(llm, "create_completion", lambda **given: prompts.append(given) or whole(**given))
    monkeypatch.setattr(llm, "chat_format", chat_format)
    answer = llm.create_chat_completion(MESSAGES, **ASKED)
    assert answer["object"] == "chat.completion"
    own = whole(prompts[0]["prompt"], stop=prompts[0]["stop"], **ASKED)
    assert answer["choices"][0]["message"]["content"] == own["choices"][0]["text"]
    chunks = [*llm.create_chat_completion(MESSAGES, stream=True, **ASKED)]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == own["choices"][0]["text"]
    with pytest.raises(SettingsError, match="reasoning_effort"):
        llm.create_chat_completion(MESSAGES, reasoning_effort="low", **ASKED)


def test_a_format_for_function_calls(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "chat_format", "chatml-function-calling")
    choice = {"type": "function", "function": {"name": "go"}}
    answer = llm.create_chat_completion(MESSAGES, tools=[GO], tool_choice=choice, max_tokens=60)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "go"
    assert '"fast"' in call["function"]["arguments"]


def test_a_format_or_handler_of_ones_own(speaking_path: Path) -> None:
    def handler(*, llama: Llama, messages: list[dict[str, str]], **rest: Any) -> Any:
        return llama.create_completion(messages[-1]["content"] + " ", max_tokens=rest["max_tokens"], seed=4)

    register_chat_completion_handler("last-message")(handler)
    for given in ({"chat_format": "last-message"}, {"chat_handler": handler}):
        with Llama(speaking_path, n_threads=1, **given) as llm:
            text = llm("the ", max_tokens=4, seed=4)["choices"]
            assert (
                llm.create_chat_completion([{"role": "user", "content": "the"}], max_tokens=4)["choices"]
                == text
            )
    with pytest.raises(SettingsError, match=r"unknown chat_format 'dance'; known are .*chatml"):
        Llama(speaking_path, chat_format="dance")


def test_langchains_completions_run_with_its_defaults(
    speaking_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_cpp.Llama", Llama)
    chain = LlamaCpp(model_path=str(speaking_path), max_tokens=12, seed=3, verbose=False)
    assert isinstance(chain.client, Llama)
    chain.client.set_seed(3)
    text = chain.invoke("the yes")
    chain.client.set_seed(3)
    assert "".join(chain.stream("the yes")) == text
    assert chain.get_num_tokens("yes") == len(chain.client.tokenize(b"yes"))
    chain.client.close()
