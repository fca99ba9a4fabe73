"""``pass-edge serve`` as a process: signals, addresses, what is missing; and all that its document allows."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from pass_edge import Engine, Settings
from tests.support.command_line import assert_refused, run
from tests.support.http_requests import LONG
from tests.support.serve_command import started
from tests.support.serving import serving


def stream(url: str, tokens: int) -> Iterator[str]:
    """The lines of an answer of so many tokens, from the second on."""
    body = {**LONG, "max_tokens": tokens, "stream": True, "temperature": 2}
    headers = {"Content-Type": "application/json"}
    request = Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    lines = (line.decode().strip() for line in urlopen(request, timeout=30))
    next(lines)
    return lines


def wait_until_closed(url: str) -> None:
    """Wait until nobody listens any more."""
    with suppress(OSError):
        while True:
            urlopen(f"{url}/health", timeout=30).close()


def is_whole(lines: Iterator[str]) -> bool:
    rest: list[str] = []
    with suppress(OSError, HTTPException):
        rest.extend(lines)
    return "data: [DONE]" in rest


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_answer_under_way_end(speaking_path: Path, sent: int) -> None:
    with started(speaking_path) as (process, url):
        lines = stream(url, tokens=500)
        process.send_signal(sent)
        wait_until_closed(url)
        events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(20) == 0


def test_an_answer_that_takes_too_long_at_the_end_is_cut_off(speaking_path: Path) -> None:
    with started(speaking_path, "--drain", "0") as (process, url):
        lines = stream(url, tokens=4000)
        process.terminate()
        assert process.wait(20) == 0
        assert not is_whole(lines)


def test_a_second_ctrl_c_ends_it_at_once(speaking_path: Path) -> None:
    with started(speaking_path) as (process, url):
        lines = stream(url, tokens=4000)
        process.send_signal(signal.SIGINT)
        wait_until_closed(url)
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert not is_whole(lines)


def test_an_address_that_others_reach_is_refused_without_a_key() -> None:
    assert_refused(run("serve", "--host", "0.0.0.0"), "--api-key")


def test_an_address_that_is_taken_is_told_before_any_model_is_read(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_refused(run("serve", "-m", str(tmp_path / "none.gguf"), "--port", port), "in use")


def test_what_is_not_installed_is_told(speaking_path: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from pass_edge.__main__ import main; main()"
    command = [sys.executable, "-c", code, "serve", "-m", str(speaking_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'pass-edge[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_help_teaches() -> None:
    told = run("serve", "--help").stdout
    for word in ("curl", "--api-key", "--queue", "Ctrl-C", "docs/server.md"):
        assert word in told


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_request_makes_a_server_error(mode: schemathesis.GenerationMode, speaking_path: Path) -> None:
    """Whatever the document allows (positive), and what it does not (negative)."""
    chosen = Settings(threads=1, context_size=128)
    statuses: set[tuple[str, int]] = set()
    with Engine(speaking_path, settings=chosen) as engine, serving(engine, time_limit=0.1) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for operation in (found.ok() for found in schema.get_all_operations()):
            if operation.method == "get" and mode.is_negative:
                continue

            @settings(
                max_examples=15 if operation.method == "post" else 3,
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                response = case.call(base_url=server.url, timeout=20)
                case.validate_response(response, checks=[not_a_server_error, response_schema_conformance])
                statuses.add((case.path, response.status_code))

            ask()
    if mode.is_positive:
        assert {path for path, _ in statuses} == set(schema.raw_schema["paths"])
    expected = 200 if mode.is_positive else 400
    assert {("/v1/completions", expected), ("/v1/chat/completions", expected)} <= statuses
