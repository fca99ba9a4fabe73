"""Results of completions and chats: whole, in chunks, and asynchronous."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Llama, LlamaGrammar
from pass_edge.openai.complete import acomplete, complete
from pass_edge.openai.requests import ChatCompletionRequest, CompletionRequest
from tests.support.chat_requests import MESSAGES


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
    for seed, different in ((-1, 4), (0xFFFFFFFF, 4), (7, 4)):
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


@pytest.mark.parametrize("many", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_short_requests_leave_nothing_behind(
    engine: Engine, resident: Callable[[], int], many: int
) -> None:
    grammar = LlamaGrammar.from_string(
        'root ::= "[" ("yes" | "no" | [a-z]{1,40})+ "]"' + "\n# " + "x" * 40_000
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
    assert len(session.tokens) + session._batcher._kv_cache._gaps < 64
    assert session._context.last_position(0) == len(session.tokens) - 1
