"""What a model thinks is shown apart from its answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge.decoding.saved_session import read_session
from tests.support.command_line import run
from tests.support.reciting_model import write_reciting_model

THOUGHTS = ("<think>", "A river", " or two?", "</think>", "\n\n", "The Rhine")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reciting_model(tmp_path_factory.mktemp("thinker") / "model.gguf", THOUGHTS, thinks=True)


def test_a_pipe_gets_the_answers_alone(thinker: Path, tmp_path: Path) -> None:
    saved = tmp_path / "chat.session"
    done = run("chat", "-m", thinker, "--temp", "0", stdin=f"Hello\n/think off\n/save {saved}\n".encode())
    assert done.exit_code == 0, done.output
    assert done.stdout == "The Rhine\n"
    assert "A river or two?" in done.stderr
    assert "thinking is off" in done.stderr
    *_, answer = read_session(saved).messages
    assert (answer["content"], answer["reasoning_content"]) == ("The Rhine", "A river or two?")


def test_a_stop_string_of_the_thinking_does_not_end_the_answer(thinker: Path) -> None:
    done = run("chat", "-m", thinker, "--temp", "0", "--stop", "two", "--stop", "Rhine", stdin=b"Hello\n")
    assert done.stdout == "The \n"


def test_think_of_a_model_that_does_not(tmp_path: Path) -> None:
    path = write_reciting_model(tmp_path / "model.gguf", ("The Rhine",))
    done = run("chat", "-m", path, "--temp", "0", stdin=b"/think on\n/think\n")
    assert "does not think" in done.stderr
    assert "on or off" in done.stderr
