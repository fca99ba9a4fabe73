"""Several models in one server: each answers to its name, is loaded on demand, and makes room for others."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from pass_edge import Engine, Settings
from pass_edge.__main__ import main
from pass_edge.server.model_pool import ModelPool
from pass_edge.settings import memory_needed
from tests.support.chat_requests import MESSAGES
from tests.support.http_requests import LONG, get, post, raw_request, slow
from tests.support.serve_command import started
from tests.support.serving import Running, serving_pool, source
from tests.support.tiny_bert import write_tiny_bert

ONE = {"prompt": "the yes", "max_tokens": 5, "seed": 1}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture(scope="module")
def several(speaking_path: Path, bert: Path) -> Iterator[Running]:
    """Three models, of which two fit in memory."""
    sources = [source("one", speaking_path, 4), source("vectors", bert, 3), source("two", speaking_path, 5)]
    with ModelPool(sources, max_waiting=16, memory=9) as pool, serving_pool(pool) as running:
        yield running


def complete(server: Running, model: str | None, **fields: Any) -> tuple[int, dict[str, Any]]:
    status, body, _ = post(server, "/v1/completions", {**ONE, **fields, "model": model})
    return status, body


def statuses(server: Running) -> dict[str, str]:
    cards = json.loads(get(server, "/v1/models")[1])["data"]
    return {card["id"]: card["status"]["value"] for card in cards}


def test_each_model_answers_to_its_name_and_makes_room(several: Running) -> None:
    for name in ("one", "two", "one"):
        status, body = complete(several, name)
        assert (status, body["model"]) == (200, name)
    assert statuses(several) == {"one": "loaded", "vectors": "unloaded", "two": "loaded"}
    client = openai.OpenAI(base_url=f"{several.url}/v1", api_key="any", max_retries=0)
    assert client.embeddings.create(model="vectors", input="yes").model == "vectors"
    assert statuses(several) == {"one": "loaded", "vectors": "loaded", "two": "unloaded"}
    metrics = get(several, "/metrics")[1].decode()
    for line in (
        'pass_edge_model_loaded{model="two"} 0.0',
        'pass_edge_model_unloads_total{model="two"} 1.0',
        'pass_edge_model_loads_total{model="one"} 1.0',
        "pass_edge_slots 3.0",
    ):
        assert line in metrics
    assert json.loads(get(several, "/health")[1]) == {"status": "ok", "slots": 3, "slots_idle": 3}


def test_a_model_answers_to_its_file_too(several: Running, speaking_path: Path) -> None:
    assert complete(several, str(speaking_path))[1]["model"] == "one"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/responses", {"input": "x"}),
        ("/completion", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/tokenize", {"content": "x"}),
        ("/detokenize", {"tokens": [1]}),
        ("/apply-template", {"messages": MESSAGES}),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(
    several: Running, path: str, body: dict[str, Any]
) -> None:
    status, answer, _ = post(several, path, {**body, "model": "three"})
    assert status == 404
    error = answer["error"]
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "not_found_error")
    assert "'three'" in error["message"]
    assert "'one', 'vectors', 'two'" in error["message"]
    status, answer, _ = post(several, path, body)  # without a name: the first of the right kind
    assert status == 200
    assert answer.get("model") in (None, "one", "vectors")


def test_a_name_of_the_wrong_kind_is_refused(several: Running) -> None:
    assert complete(several, "vectors")[0] == 400
    assert "embedding model" in complete(several, "vectors")[1]["error"]["message"]
    status, answer, _ = post(several, "/v1/embeddings", {"input": "x", "model": "two"})
    assert (status, "two is a model that writes text" in answer["error"]["message"]) == (400, True)


def test_properties_and_slots_are_those_of_the_model_asked_for(several: Running) -> None:
    complete(several, "two")
    assert json.loads(get(several, "/props?model=two")[1])["model_alias"] == "two"
    assert json.loads(get(several, "/props")[1])["model_alias"] == "one"
    assert len(json.loads(get(several, "/slots?model=two")[1])) == 1
    assert json.loads(get(several, "/slots?model=vectors")[1]) == []  # it has made room
    for path in ("/props?model=three", "/slots?model=three", "/v1/models/three"):
        assert get(several, path)[0] == 404
    card = json.loads(get(several, "/v1/models/vectors")[1])
    assert (card["context_size"], card["status"]["value"]) == (None, "unloaded")


def test_clients_of_several_models_at_once_get_what_they_would_get_alone(several: Running) -> None:
    bodies = [{"model": name, "seed": seed, "max_tokens": 20} for seed in range(4) for name in ("one", "two")]

    def text(body: dict[str, Any]) -> str:
        status, answer = complete(several, **body)
        assert status == 200, answer
        return answer["choices"][0]["text"]

    alone = [text(body) for body in bodies]
    with ThreadPoolExecutor(8) as clients:
        vectors = clients.submit(post, several, "/v1/embeddings", {"input": "yes", "model": "vectors"})
        assert list(clients.map(text, bodies)) == alone
        assert vectors.result()[0] == 200
    several.wait_until_idle()


def test_an_answer_is_never_cut_off_by_another_model(
    speaking_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.02)
    sources = [source("one", speaking_path, 5), source("two", speaking_path, 5)]
    with (
        ModelPool(sources, max_waiting=16, memory=9) as pool,
        serving_pool(pool) as server,
        ThreadPoolExecutor(2) as clients,
    ):
        body = {"max_tokens": 30, "logit_bias": {"2": -100}}
        first = clients.submit(complete, server, "one", **body)
        while not pool.models[0].queue.active:
            time.sleep(0.005)
        second = clients.submit(complete, server, "two", **body)
        for answer in (first, second):
            assert answer.result()[1]["usage"]["completion_tokens"] == 30
        assert [model.unloads for model in pool.models] == [1, 0]


def test_a_model_that_cannot_be_loaded_is_told_and_the_others_go_on(
    speaking_path: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(speaking_path.read_bytes()[:5000])
    sources = [source("one", speaking_path), source("damaged", damaged)]
    with ModelPool(sources, max_waiting=16, memory=9) as pool, serving_pool(pool) as server:
        for stream in (False, True):
            status, body = complete(server, "damaged", stream=stream)
            assert status == 500
            assert body["error"]["type"] == "server_error"
            assert body["error"]["message"].startswith(f"damaged cannot be loaded: {damaged}")
        assert complete(server, "one")[0] == 200
        card = json.loads(get(server, "/v1/models/damaged")[1])
        assert card["status"]["failed"]
        assert card["status"]["error"].startswith(str(damaged))
        server.wait_until_idle()


class Gate:
    """A model whose loading waits until the gate is open. ``asked``: whether the load has begun."""

    def __init__(self, path: Path) -> None:
        self.open, self.asked = threading.Event(), threading.Event()
        self.source = source("slow", path, opens=self.wait)

    def wait(self) -> None:
        self.asked.set()
        assert self.open.wait(20)


@pytest.fixture
def gate(speaking_path: Path) -> Gate:
    return Gate(speaking_path)


def test_others_are_answered_while_a_model_is_loaded(gate: Gate, speaking_path: Path) -> None:
    sources = [source("one", speaking_path), gate.source]
    with (
        ModelPool(sources, max_waiting=16, memory=9) as pool,
        serving_pool(pool) as server,
        ThreadPoolExecutor(2) as clients,
    ):
        assert complete(server, "one")[0] == 200  # loaded before
        waiting = [clients.submit(complete, server, "slow") for _ in range(2)]
        assert gate.asked.wait(20)
        assert statuses(server) == {"one": "loaded", "slow": "loading"}
        assert json.loads(get(server, "/slots?model=slow")[1]) == []
        assert complete(server, "one")[0] == 200
        gate.open.set()
        assert [each.result()[0] for each in waiting] == [200, 200]
        assert pool.models[1].loads == 1


def test_a_client_that_leaves_while_its_model_is_loaded_gives_its_place_back(
    gate: Gate, speaking_path: Path
) -> None:
    sources = [source("one", speaking_path), gate.source]
    with ModelPool(sources, max_waiting=0, memory=9) as pool, serving_pool(pool) as server:
        connection = raw_request(server, {**LONG, "model": "slow"})
        assert gate.asked.wait(20)
        assert complete(server, "slow")[0] == 429
        connection.close()
        server.wait_until_idle()
        gate.open.set()
        assert complete(server, "slow")[0] == 200


def test_the_queue_of_one_model_does_not_fill_that_of_another(
    speaking_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    sources = [source("one", speaking_path), source("two", speaking_path)]
    with ModelPool(sources, max_waiting=0, memory=9) as pool, serving_pool(pool) as server:
        connection = raw_request(server, {**LONG, "model": "one"})
        while not pool.models[0].queue.active:
            time.sleep(0.005)
        assert complete(server, "one")[0] == 429
        assert complete(server, "two", max_tokens=1)[0] == 200
        connection.close()
        server.wait_until_idle()


# -- the command --------------------------------------------------------------------------------------


def test_serve_takes_several_models(speaking_path: Path, bert: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other.gguf").symlink_to(speaking_path)
    with started(speaking_path, "-m", str(other), "-m", str(bert)) as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        assert [model.id for model in client.models.list()] == ["speaking", "other", "bert"]
        assert client.completions.create(model="other", prompt="x", max_tokens=1).model == "other"
        assert len(client.embeddings.create(model="bert", input="yes").data) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr
        said = process.stderr.read()
    assert "other loaded in" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_ends_a_server_that_loads(speaking_path: Path, tmp_path: Path, signals: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time, pass_edge.commands.engine_options as options\n"
        "def slowly(*_):\n    print('begun', file=__import__('sys').stderr, flush=True)\n    time.sleep(60)\n"
        "options.open_engine = slowly\n"
    )
    (other := tmp_path / "other.gguf").symlink_to(speaking_path)
    environment = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    with started(speaking_path, "-m", str(other), environment=environment) as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)

        told = threading.Event()

        def ask() -> None:
            with pytest.raises(openai.InternalServerError, match="shutting down"):
                client.completions.create(model="other", prompt="x")
            told.set()

        (asking := threading.Thread(target=ask)).start()
        assert process.stderr
        assert any("begun" in line for line in process.stderr)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
        asking.join(10)
        assert told.is_set() or signals == 2  # the second ends it at once


@pytest.mark.parametrize(
    ("word", "options"),
    [
        ("there is no file", ["-m", "{missing}"]),
        ("two models have the name", ["-m", "{model}"]),
        ("there are 1 names (--alias) and 2 models", ["-m", "{bert}", "--alias", "a"]),
        ("leave --lookahead and --draft-model out", ["-m", "{bert}", "--draft-model", "{model}"]),
        ("leave --lookahead and --draft-model out", ["-m", "{bert}", "--lookahead", "x.pass.gguf"]),
        ("it must be 0 or more", ["--queue", "-1"]),
    ],
)
def test_what_cannot_be_is_told_at_the_start(
    word: str, options: list[str], speaking_path: Path, bert: Path, tmp_path: Path
) -> None:
    places = {"missing": tmp_path / "none.gguf", "model": speaking_path, "bert": bert}
    given = [option.format(**places) for option in options]
    done = CliRunner().invoke(main, ["serve", "--port", "0", "-m", str(speaking_path), *given])
    assert done.exit_code == 2
    assert word in done.stderr


def test_the_memory_of_a_model_is_estimated_before_it_is_loaded(speaking_path: Path) -> None:
    small, large = (
        memory_needed(Settings(context_size=size, parallel=parallel), speaking_path)
        for size, parallel in ((256, 1), (4096, 4))
    )
    with Engine(speaking_path, settings=Settings(threads=1)) as engine:
        per_token = 2 * 2 * engine.model.n_layer * engine.model.n_embd  # keys and values of two bytes
        assert large - small == per_token * (4 * (4096 + 256) - (256 + 256))
        assert small > engine.model.size
