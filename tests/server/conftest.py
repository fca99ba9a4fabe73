"""A server for each test module, and OpenAI's client for it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from pass_edge import Engine
from tests.support.serving import Running, serving


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with serving(engine, name="tiny", queue=64) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
