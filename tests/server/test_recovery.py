"""Faults, repeated many times: afterwards the server answers correctly, and its memory is as before."""

from __future__ import annotations

import gc
import http.client
import itertools
import json
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from pass_edge import Engine, Settings
from pass_edge.openai.complete import complete
from pass_edge.openai.requests import CompletionRequest
from tests.support.http_requests import LONG, A, get, post, raw_request
from tests.support.serve_command import started
from tests.support.serving import Running, serving

MARGIN = 4 << 20
"""Bytes that memory may be above where it was: allocators keep a little."""
PROBE = {"prompt": "the yes", "max_tokens": 12, "seed": 3}
CONTEXT = 512
MANY = [30, pytest.param(1000, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def engine(speaking_path: Path) -> Iterator[Engine]:
    with Engine(speaking_path, settings=Settings(threads=1, context_size=CONTEXT, parallel=2)) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with serving(engine, queue=2, body_limit=1 << 20) as running:
        yield running


def answers(server: Running) -> Any:
    """What the probe is answered."""
    status, body, _ = post(server, "/v1/completions", PROBE)
    assert status == 200
    return body["choices"]


def is_cut(server: Running) -> None:
    """A client hangs up in mid-stream."""
    with raw_request(server, {**LONG, "stream": True}) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    server.wait_until_idle()


def is_malformed(server: Running) -> None:
    """A body that is no JSON, or not what is asked for."""
    for body in (b'{"prompt": "x', b"[" * 10_000, b"\xff\xfe", b'{"prompt": "x", "dance": 1}'):
        assert post(server, "/v1/completions", body)[0] == 400


def is_oversized(server: Running) -> None:
    """A body over the limit, told or sent."""
    too_much = b" " * ((1 << 20) + 1)
    with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up on what it does not want
        assert post(server, "/v1/completions", too_much)[0] == 413


def exceeds_context(server: Running) -> None:
    """A prompt that does not fit, and an answer that reaches the end of the context."""
    status, body, _ = post(server, "/v1/completions", {"prompt": "the " * CONTEXT})
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
    almost = {**LONG, "prompt": [A] * (CONTEXT - 10)}
    status, body, _ = post(server, "/v1/completions", almost)
    assert (status, body["choices"][0]["finish_reason"]) == (200, "length")
    assert body["usage"]["total_tokens"] <= CONTEXT


def fills_the_queue(server: Running) -> None:
    """More requests at once than have a place."""
    taken = [raw_request(server, {**LONG, "stream": True}) for _ in range(8)]
    heads = [connection.recv(4096) for connection in taken]
    assert {head.split()[1] for head in heads} == {b"200", b"429"}
    for connection in taken:
        connection.close()
    server.wait_until_idle()


@pytest.mark.parametrize("times", MANY)
@pytest.mark.parametrize("fault", [is_cut, is_malformed, is_oversized, exceeds_context, fills_the_queue])
def test_a_fault_leaves_the_server_right_and_its_memory_where_it_was(
    fault: Callable[[Running], None],
    times: int,
    server: Running,
    engine: Engine,
    resident: Callable[[], int],
) -> None:
    right = complete(engine, CompletionRequest(**PROBE))["choices"]

    def again(count: int) -> int:
        for _ in range(count):
            fault(server)
            assert answers(server) == right
        gc.collect()
        return resident()

    before = again(10)
    assert again(times) - before < MARGIN
    assert json.loads(get(server, "/health")[1])["slots_idle"] == 2


def heaps(process: int) -> int:
    """How many heaps glibc has for threads: 64 MiB each, at a multiple of that, the first part in use and the
    rest only reserved. Other memory may happen to begin at such a place."""
    maps = [line.split() for line in Path(f"/proc/{process}/maps").read_text().splitlines()]
    spans = [(*(int(end, 16) for end in span.split("-")), access) for span, access, *_ in maps]
    size = 64 << 20
    return sum(
        start % size == 0 and (access, then) == ("rw-p", "---p") and end == rest and last == start + size
        for (start, end, access), (rest, last, then) in itertools.pairwise(spans)
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has a heap for each thread")
def test_many_answers_at_once_share_two_heaps(speaking_path: Path) -> None:
    asked = json.dumps({**LONG, "max_tokens": 40, "n": 2}).encode()
    with started(speaking_path, "-np", "4") as (process, url):

        def ask(_: int) -> int:
            request = Request(f"{url}/v1/completions", asked, {"Content-Type": "application/json"})
            return urlopen(request, timeout=60).status

        with ThreadPoolExecutor(8) as clients:
            assert list(clients.map(ask, range(16))) == [200] * 16
        assert heaps(process.pid) <= 2


def test_a_model_file_that_is_removed_is_not_missed(speaking_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(speaking_path, tmp_path / "model.gguf"))
    with started(copy) as (_, url):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)

        def answer() -> Any:
            connection.request(
                "POST", "/v1/completions", json.dumps(PROBE), {"Content-Type": "application/json"}
            )
            return json.load(connection.getresponse())["choices"]

        before = answer()
        copy.unlink()
        assert answer() == before
        connection.close()


@pytest.mark.slow
def test_no_request_leaks_memory_or_places(server: Running, resident: Callable[[], int]) -> None:
    def requests(count: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(count):
            body = json.dumps({"prompt": f"{i}", "max_tokens": 2, "stream": bool(i % 2)})
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        connection.close()
        return resident()

    before = requests(200)
    assert requests(1000) - before < 4 << 20
    server.wait_until_idle()
