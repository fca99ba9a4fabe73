"""Who may use the server: keys, host names and addresses."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from pass_edge import Engine, SettingsError
from pass_edge.server.settings import ServerSettings
from tests.support.http_requests import get
from tests.support.serving import Running, serving


def test_only_who_knows_the_key_is_answered(engine: Engine) -> None:
    with serving(engine, api_key="sécret") as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer"},
            {"Authorization": "x"},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/docs"):
                status, body = get(server, path, **headers)
                assert status == 401
                assert json.loads(body)["error"]["type"] == "authentication_error"
        assert get(server, "/health")[0] == 200
        right = {"Authorization": "bearer sécret".encode().decode("latin-1")}
        assert get(server, "/v1/models", **right)[0] == 200
        assert get(server, "/v1/models", Host="elsewhere.example", **right)[0] == 200
    with serving(engine, api_key="secret") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.completions.create(model="any", prompt="x")
        right_one = openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0)
        assert right_one.completions.create(model="any", prompt="x", max_tokens=1).choices


def test_a_foreign_host_name_is_refused_without_a_key(server: Running) -> None:
    for name in ("localhost", f"127.0.0.1:{server.port}", f"LOCALHOST:{server.port}", "[::1]:80"):
        assert get(server, "/v1/models", Host=name)[0] == 200
    for name in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", ""):
        assert get(server, "/v1/models", Host=name)[0] == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(SettingsError, match="api-key"):
        ServerSettings(host=host)
    assert not ServerSettings(host=host, api_key="k").is_loopback


@pytest.mark.parametrize("wrong", [{"port": -1}, {"port": 70000}, {"time_limit": 0}, {"api_key": " "}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ServerSettings(**wrong)
