"""Checks of completions, and of the endpoints around them."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from server_under_test import PROMPT, WORDS, Server, check


@check("basic")
def health(server: Server) -> None:
    """`GET /health` answers 200"""
    assert server.get("/health")["status"] == "ok"


@check("basic")
def props(server: Server) -> None:
    """`/props`: model path, slots, context size, default parameters"""
    got = server.get("/props")
    assert got["model_path"].endswith(".gguf")
    assert got["total_slots"] == 4
    assert got["default_generation_settings"]["n_ctx"] == 512
    assert "seed" in got["default_generation_settings"]["params"]


@check("basic")
def models(server: Server) -> None:
    """`/models` lists one model, with its alias"""
    assert [each["id"] for each in server.get("/models")["data"]] == ["alias"]


@check("basic")
def slots(server: Server) -> None:
    """`/slots` lists the slots, with their context size"""
    assert [each["n_ctx"] for each in server.get("/slots")] == [512] * 4


@check("basic")
def no_web_page(server: Server) -> None:
    """`/` is 404, as with `--no-webui`"""
    assert server.ask("/")[0] == 404


@check("completion")
def completion(server: Server) -> None:
    """`/completion` with `n_predict`: content, timings, `truncated`, `has_new_line`"""
    got = server.complete()
    assert got["timings"]["predicted_n"] == 8
    assert got["timings"]["prompt_n"] > 0
    assert got["truncated"] is False
    assert isinstance(got["has_new_line"], bool)
    assert got["content"]


@check("completion")
def return_tokens(server: Server) -> None:
    """`return_tokens` returns the ids; without it, `tokens` is empty"""
    assert len(server.complete(return_tokens=True)["tokens"]) == 8
    assert server.complete()["tokens"] == []


@check("completion")
def completion_stream(server: Server) -> None:
    """`/completion` as a stream: `stop`, `tokens`; settings and timings in the last event"""
    *events, last = server.events("/completion", prompt=PROMPT, n_predict=8, seed=42)
    assert all(each["stop"] is False and each["tokens"] for each in events)
    assert (last["stop"], last["stop_type"], last["truncated"]) == (True, "limit", False)
    assert last["generation_settings"]["n_predict"] == 8
    assert last["generation_settings"]["seed"] == 42
    assert last["timings"]["predicted_n"] == 8
    assert "".join(each["content"] for each in events) == server.complete()["content"]


@check("completion")
def openai_completion(server: Server) -> None:
    """OpenAI's client: completions, whole and streamed"""
    asked: dict[str, Any] = {"model": "davinci-002", "prompt": PROMPT, "max_tokens": 8, "seed": 3}
    got = server.client.completions.create(**asked).choices[0]
    assert got.finish_reason == "length"
    chunks = server.client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == got.text


@check("completion")
def stops_in_a_stream(server: Server) -> None:
    """Stop strings never show in a stream"""
    chunks = server.client.completions.create(
        model="any", prompt="1, 2, 3, 4,", stop=[" 7", "7,"], max_tokens=40, stream=True, temperature=0
    )
    assert "7" not in "".join(chunk.choices[0].text for chunk in chunks)


@check("completion")
def same_seed(server: Server) -> None:
    """The same seed gives the same text, whatever is cached or runs beside it"""
    texts = {server.complete(temperature=1.0, cache_prompt=cached)["content"] for cached in (True, False)}
    with ThreadPoolExecutor(4) as pool:
        texts |= {each["content"] for each in pool.map(lambda _: server.complete(temperature=1.0), range(4))}
    assert len(texts) == 1


@check("completion")
def other_seed(server: Server) -> None:
    """Other seeds give other texts"""
    texts = [server.complete(seed=seed, temperature=1.0, n_predict=16)["content"] for seed in range(4)]
    assert len(set(texts)) == 4


@check("completion")
def long_prompt(server: Server) -> None:
    """A prompt that does not fit is 400"""
    assert server.ask("/completion", {"prompt": PROMPT * 100})[0] == 400


@check("completion")
def token_prompts(server: Server) -> None:
    """Prompts: token ids, batches, ids beside texts in a batch, both in one prompt"""
    ids = server.get("/tokenize", {"content": PROMPT, "add_special": True})["tokens"]
    text = server.complete(temperature=0)["content"]
    assert server.complete(ids, temperature=0)["content"] == text
    for batch in ([ids, ids], [ids, PROMPT]):
        assert [each["content"] for each in server.complete(batch, temperature=0)] == [text, text]
    assert isinstance(server.complete([1, 2, 3, PROMPT, 7, 8, PROMPT])["content"], str)


@check("completion")
def more_requests_than_slots(server: Server) -> None:
    """More requests than slots are all answered, and `/slots` shows which are busy"""
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(server.complete, n_predict=100, ignore_eos=True, seed=i) for i in range(6)]
        time.sleep(0.5)
        assert sum(each["is_processing"] for each in server.get("/slots")) == 4
        assert all(len(each.result()["content"]) > 10 for each in answers)


@check("completion")
def response_fields(server: Server) -> None:
    """`response_fields` chooses fields, nested ones by `a/b`"""
    got = server.complete(response_fields=["content", "generation_settings/n_predict", "prompt"])
    assert got.keys() == {"content", "generation_settings/n_predict", "prompt"}
    assert got["generation_settings/n_predict"] == 8
    assert "generation_settings" in server.complete(response_fields=[])


@check("completion")
def n_probs(server: Server) -> None:
    """`n_probs`: id, text, bytes and log-probability of each token and of its alternatives"""
    got = server.complete(n_probs=10, temperature=0, n_predict=5)["completion_probabilities"]
    assert len(got) == 5
    for token in got:
        assert len(token["top_logprobs"]) == 10
        for each in (token, *token["top_logprobs"]):
            assert isinstance(each["id"], int)
            assert isinstance(each["token"], str)
            assert isinstance(each["bytes"], list)
            assert each["logprob"] <= 0
    events = server.events("/completion", prompt=PROMPT, n_probs=10, temperature=0, n_predict=5, seed=42)
    assert [token for event in events for token in event["completion_probabilities"]] == got


@check("completion")
def logit_bias(server: Server) -> None:
    """`logit_bias` by ids and by texts, in lists and in objects"""
    ids = server.get("/tokenize", {"content": f" {' '.join(WORDS)} "})["tokens"]
    for keys in (ids, [f" {word} " for word in WORDS]):
        pairs = [[key, -100] for key in keys]
        for bias in (pairs, {str(key): value for key, value in pairs}):
            body = {"n_predict": 32, "temperature": 0, "logit_bias": bias}
            text = server.complete("What is the best book", **body)["content"]
            assert not any(f" {word} " in text for word in WORDS)


@check("completion")
def cancel(server: Server) -> None:
    """A client that goes frees its slot"""
    body = json.dumps({"prompt": PROMPT, "n_predict": 400, "ignore_eos": True}).encode()
    with suppress(TimeoutError, urllib.error.URLError):
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/completion", body), timeout=0.2)
    time.sleep(1)
    assert not any(each["is_processing"] for each in server.get("/slots"))


@check("tokenize")
def tokenize(server: Server) -> None:
    """`/tokenize` and `/detokenize` give the text back"""
    content = "What is the capital of France ?"
    tokens = server.get("/tokenize", {"content": content})["tokens"]
    assert len(tokens) > 5
    assert server.get("/detokenize", {"tokens": tokens})["content"].strip() == content


@check("tokenize")
def add_special(server: Server) -> None:
    """`add_special` adds BOS, if the model wants one"""
    marked, bare = (
        server.get("/tokenize", {"content": "x", "add_special": special})["tokens"]
        for special in (True, False)
    )
    assert marked[-len(bare) :] == bare


@check("tokenize")
def with_pieces(server: Server) -> None:
    """`with_pieces` gives each token's text, or its bytes"""
    content = "This is a test string with unicode \u5abd and emoji \U0001f917"
    pieces = server.get("/tokenize", {"content": content, "with_pieces": True})["tokens"]
    raw = [
        each["piece"].encode() if isinstance(each["piece"], str) else bytes(each["piece"]) for each in pieces
    ]
    assert b"".join(raw).decode() == content
    assert all(raw)


@check("infill")
def infill(server: Server) -> None:
    """`/infill`, with `input_extra` and without: other texts of the project, other text"""
    body = {
        "input_prefix": "#include <cstdio>\n\nint main() {\n    ",
        "input_suffix": "}\n",
        "prompt": "    int n_threads = llama_",
        "n_predict": 16,
        "temperature": 0,
    }
    extra = [{"filename": "llama.h", "text": "LLAMA_API int32_t llama_n_threads();\n"}]
    alone, together = (server.get("/infill", {**body, "input_extra": each}) for each in ([], extra))
    assert alone["content"]
    assert together["content"]
    assert together["tokens_evaluated"] > alone["tokens_evaluated"]


@check("infill")
def wrong_extra(server: Server) -> None:
    """Wrong `input_extra` is 400"""
    for extra in ({}, {"filename": "ok"}, {"filename": 123, "text": "x"}, {"filename": 1, "text": 2}):
        body = {"input_prefix": "x", "input_suffix": "y", "input_extra": [extra]}
        assert server.ask("/infill", body)[0] == 400


@check("ctx_shift")
def fills_the_context(server: Server) -> None:
    """`n_predict` -1 fills the context: `truncated`; a smaller one is kept to"""
    got = server.complete("Hi how are you", n_predict=-1, ignore_eos=True)
    assert (got["truncated"], got["tokens_evaluated"] + got["tokens_predicted"]) == (True, 512)
    got = server.complete("Hi how are you", n_predict=64, ignore_eos=True)
    assert (got["truncated"], got["timings"]["predicted_n"]) == (False, 64)


@check("ctx_shift")
def fills_the_context_in_a_stream(server: Server) -> None:
    """A stream that fills the context ends with "length" """
    body = {"prompt": "Once", "n_predict": 2000, "ignore_eos": True}
    *chunks, last = server.events("/v1/completions", **body)
    assert all(each["choices"][0]["finish_reason"] is None for each in chunks)
    assert last["choices"][0]["finish_reason"] == "length"


@check("ignore_eos")
def ignore_eos(server: Server) -> None:
    """`ignore_eos` bans the end tokens, as `generation_settings` shows"""
    biases = server.complete(ignore_eos=True)["generation_settings"]["logit_bias"]
    assert biases
    assert all(each["bias"] is None for each in biases)
    assert server.complete(ignore_eos=False)["generation_settings"]["logit_bias"] == []


@check("speculative")
def nearly_full(server: Server) -> None:
    """Drafts do not overrun a nearly full context; `speculative.p_min` is accepted"""
    got = server.complete("Hello " * 500, **{"speculative.p_min": 0.0, "n_predict": -1, "top_k": 1})
    assert got["content"]


@check("speculative")
def alike_side_by_side(server: Server) -> None:
    """Requests side by side have the same text"""
    with ThreadPoolExecutor(2) as pool:
        got = [*pool.map(lambda _: server.complete(temperature=0, top_k=1, n_predict=32), range(2))]
    assert got[0]["content"] == got[1]["content"]
