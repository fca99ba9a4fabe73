"""The command line tool ``llm`` runs on PaSS Edge."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pass_edge import Engine, Sampling, SettingsError
from pass_edge.llm_plugin import PassEdge


@pytest.fixture(scope="module")
def model(speaking_path: Path) -> Iterator[PassEdge]:
    model = PassEdge("pass-edge", lambda: speaking_path)
    yield model
    model.engine.close()


def chat(engine: Engine, messages: list[dict[str, str]], **sampling: Any) -> str:
    return engine.chat(messages, sampling=Sampling(**sampling), max_tokens=20).run().text


@pytest.mark.parametrize("stream", [True, False])
def test_llm_is_answered_as_the_library_answers(model: PassEdge, stream: bool) -> None:
    sampling = {"temperature": 0.7, "seed": 4, "top_p": 0.9}
    response = model.prompt("the yes", system="no", stream=stream, max_tokens=20, **sampling)
    pieces = list(response)
    messages = [{"role": "system", "content": "no"}, {"role": "user", "content": "the yes"}]
    assert "".join(pieces) == chat(model.engine, messages, **sampling)
    assert response.usage().input == len(model.engine.render(messages))


def test_an_llm_conversation_remembers(model: PassEdge) -> None:
    conversation = model.conversation()
    said = [conversation.prompt(each, temperature=0, max_tokens=20).text() for each in ("yes", "no")]
    messages = [{"role": "user", "content": "yes"}, {"role": "assistant", "content": said[0]}]
    assert said[1] == chat(model.engine, [*messages, {"role": "user", "content": "no"}], temperature=0)


def test_llm_refuses_what_the_library_refuses(model: PassEdge) -> None:
    with pytest.raises(SettingsError, match="top-p"):
        model.prompt("x", top_p=2).text()


@pytest.mark.parametrize("in_a_folder", [False, True])
def test_llm_finds_the_models(
    in_a_folder: bool, speaking_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PASS_EDGE_MODELS", str(speaking_path.parent if in_a_folder else speaking_path))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.setenv("LLM_LOAD_PLUGINS", "pass-edge")
    command = [sys.executable, "-m", "llm", "-m", "pass-edge/speaking", "the", "-o", "seed", "1"]
    command += ["-o", "max_tokens", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
