"""The soak test writes its results so far, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import soak

SOAK = [sys.executable, soak.__file__]


@contextmanager
def started(*options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*SOAK, *map(str, options)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def has_come(process: subprocess.Popen[str], said: str) -> str:
    """The first line of progress with ``said`` in it."""
    assert process.stderr
    return next(line for line in process.stderr if said in line)


def test_a_whole_soak_is_on_its_page(speaking_path: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with started(speaking_path, "--minutes", 0.05, "--report", page) as process:
        has_come(process, "once more")
        assert process.wait(120) == 0
    assert "0 answered wrong" in page.read_text()
    assert "None." in page.read_text()
    assert "before its time" not in page.read_text()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_soak_that_is_interrupted_has_written_what_it_saw(
    speaking_path: Path, tmp_path: Path, sent: int
) -> None:
    page = tmp_path / "page.md"
    with started(speaking_path, "--minutes", 1, "--report", page) as process:
        has_come(process, " MiB")
        process.send_signal(sent)
        assert process.wait(60) == 1
    assert "It ended before its time: it was interrupted." in page.read_text()
    assert "0 answered wrong" in page.read_text()


def test_a_server_that_ends_ends_the_soak(
    speaking_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []

    def write(seen: soak.Soak) -> None:
        pages.append(soak.report("model.gguf", seen))
        if len(pages) == 1:
            os.kill(servers[0]._process.pid, signal.SIGKILL)

    servers: list[soak.Server] = []
    enter = soak.Server.__enter__
    monkeypatch.setattr(soak.Server, "__enter__", lambda self: (servers.append(self), enter(self))[1])
    seen = soak.run(str(speaking_path), 20, write)
    assert "the server ended with -9" in seen.early
    assert "it could not go on" in pages[-1]
    assert len(pages) < 5


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="not a GGUF file"):
        soak.Server(str(tmp_path / "model.gguf"))


@pytest.mark.slow
def test_half_an_hour_of_mixed_traffic(model_path: Path) -> None:
    seen = soak.run(str(model_path), 30 * 60, lambda _: None)
    assert not seen.wrong
    assert not seen.early
    middle, end = seen.memory[len(seen.memory) // 2], seen.memory[-1]
    assert end - middle < 8
