"""pass-edge models and pass-edge lookahead, and -m in other commands, as a person uses them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from pass_edge import read_lookahead, write_sidecar
from pass_edge.models.folders import hub_cache, sidecar_folder
from pass_edge.models.sidecars import find_lookahead, shipped_sidecars
from tests.support.command_line import assert_refused, run
from tests.support.hub import Hub
from tests.support.lookaheads import lookahead_for
from tests.support.model_homes import put, put_in_ollama

COMMAND = [sys.executable, "-m", "pass_edge"]
NAME = "someone/some-GGUF"


@pytest.fixture
def model(hub: Hub, speaking_path: Path) -> str:
    hub.repositories[NAME] = {"m-Q8_0.gguf": speaking_path.read_bytes(), "mmproj-m-f16.gguf": b"GGUF"}
    return f"{NAME}:Q8_0"


def test_a_model_is_pulled_listed_used_and_removed(model: str, hub: Hub) -> None:
    done = run("models", "pull", NAME)
    assert done.exit_code == 0, done.output
    path = Path(done.stdout.strip())
    assert path.is_relative_to(hub_cache())
    assert "m-Q8_0.gguf: " in done.stderr
    (listed,) = json.loads(run("models", "--json").stdout)
    expected = {
        "name": model,
        "family": "llama",
        "quantization": "Q8_0",
        "problem": "",
        "store": "Hugging Face",
    }
    assert listed == listed | expected | {"path": str(path), "size": path.stat().st_size, "lookahead": ""}
    lines = [line.split("\t") for line in run("models").stdout.splitlines()]
    assert lines[0][:4] == ["name", "family", "size", "quantization"]
    assert [len(line) for line in lines] == [7, 7]
    assert lines[1][0] == model
    asked = len(hub.asked)
    done = run("generate", "yes", "-m", model, "-n", "3", "-t", "1", "--json", "-s", "1")
    assert json.loads(done.stdout)["finish_reason"] == "length"
    assert len(hub.requests("GET", "resolve")) == 1
    assert len(hub.asked) <= asked + 1  # a lookahead file was asked for
    assert_refused(run("models", "rm", model), "only with --yes")
    done = run("models", "rm", NAME, "--yes")
    assert (done.exit_code, done.stdout.startswith(f"{model} is removed, ")) == (0, True)
    assert json.loads(run("models", "--json").stdout) == []
    assert_refused(run("models", "rm", model, "--yes"), "there is no model", "`pass-edge models` lists")


def test_models_of_other_programs_are_listed_and_never_removed(home: Path, speaking_path: Path) -> None:
    put_in_ollama(home / ".ollama/models", "registry.ollama.ai/library/speaker/latest", speaking_path)
    put(home / ".lmstudio/models/me/broken/x-Q4_0.gguf", b"GGUF and then nothing")
    listed = {each["name"]: each for each in json.loads(run("models", "--json").stdout)}
    assert list(listed) == ["me/broken:Q4_0", "ollama:speaker:latest"]
    assert "damaged or cut off" in listed["me/broken:Q4_0"]["problem"]
    assert listed["ollama:speaker:latest"]["problem"] == ""
    assert_refused(
        run("models", "rm", "ollama:speaker:latest", "-y"), "not downloaded by pass-edge", "Ollama"
    )
    assert len(json.loads(run("models", "--json").stdout)) == 2


def test_what_cannot_be_pulled(model: str) -> None:
    assert_refused(run("models", "pull", "ollama:qwen"), "is no name on the hub", "USER/REPO")
    assert_refused(run("models", "pull", "a.gguf"), "is no name on the hub")
    assert_refused(run("models", "pull", f"{NAME}:Q4_0"), f"{NAME} has no Q4_0; it has Q8_0")
    assert_refused(run("generate", "yes", "-m", f"{NAME}:Q4_0"), "it has Q8_0")


def test_ctrl_c_keeps_what_has_arrived(hub: Hub) -> None:
    hub.repositories[NAME] = {"m-Q8_0.gguf": bytes(8 << 20)}
    hub.cuts = [4 << 20] + [0] * 100
    child = subprocess.Popen([*COMMAND, "models", "pull", NAME], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while len(hub.requests("GET", "resolve")) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "what has arrived is kept, and the same command continues it" in errors
    assert [path.stat().st_size for path in hub_cache().rglob("*.incomplete")] == [4 << 20]
    hub.cuts = []
    assert Path(run("models", "pull", NAME).stdout.strip()).read_bytes() == bytes(8 << 20)


def test_a_terminal_shows_a_table_and_asks(model: str) -> None:
    run("models", "pull", NAME)
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], "models"], encoding="utf-8", timeout=60, dimensions=(30, 200)
    )
    child.expect(f"{model}.*llama.*MiB.*Q8_0.*Hugging Face: .*~/.cache/")
    child.expect(pexpect.EOF)
    arguments = [*COMMAND[1:], "models", "rm", model]
    for answer, left in (("n", 1), ("y", 0)):
        child = pexpect.spawn(COMMAND[0], arguments, encoding="utf-8", timeout=60)
        child.expect("Remove .* MiB")
        child.sendline(answer)
        child.expect(pexpect.EOF)
        assert len(json.loads(run("models", "--json").stdout)) == left


def test_lookahead_files_are_added_found_and_removed(home: Path, speaking_path: Path, tmp_path: Path) -> None:
    sidecar = tmp_path / "mine.pass.gguf"
    write_sidecar(lookahead_for(speaking_path), sidecar)
    base = read_lookahead(sidecar).base
    assert find_lookahead(speaking_path, base) is None
    done = run("lookahead", "add", sidecar)
    added = Path(done.stdout.strip())
    assert (done.exit_code, added) == (0, sidecar_folder() / "mine.pass.gguf")
    assert find_lookahead(speaking_path, base) == added
    assert_refused(run("lookahead", "add", sidecar), "exists; --force replaces it")
    assert run("lookahead", "add", sidecar, "--force").exit_code == 0
    rows = [line.split("\t") for line in run("lookahead", "list").stdout.splitlines()]
    assert [row[0] for row in rows] == [
        "mine",
        *(p.name.removesuffix(".pass.gguf") for p in shipped_sidecars()),
    ]
    assert rows[0][1:] == [base.name, str(added)]
    assert_refused(run("lookahead", "rm", "mine"), "only with --yes")
    assert_refused(run("lookahead", "rm", "other", "-y"), "there is no lookahead file other", "it has mine")
    assert_refused(run("lookahead", "add", speaking_path), "holds no lookahead")
    assert_refused(run("lookahead", "add", tmp_path / "none"), "there is no file")
    added.with_name("damaged.pass.gguf").write_bytes(b"GGUF")
    assert find_lookahead(speaking_path, base) == added, "a damaged file does not matter"
    assert run("lookahead", "rm", "mine", "-y").exit_code == 0
    assert find_lookahead(speaking_path, base) is None


def test_the_served_name_is_the_one_typed(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pass_edge.commands import serve
    from pass_edge.server.model_pool import ModelPool

    names: list[list[str]] = []

    class Pool(ModelPool):
        def load_first(self) -> None:
            names.append([served.name for served in self.models])
            raise KeyboardInterrupt

    monkeypatch.setattr("pass_edge.server.model_pool.ModelPool", Pool)
    run("serve", "-m", model, "--port", "0", "--no-page")
    assert names == [[model]]
    assert serve


def test_commands_that_read_a_model_take_its_name(
    hub: Hub, home: Path, speaking_path: Path, tmp_path: Path
) -> None:
    hub.repositories[NAME] = {"m-F16.gguf": speaking_path.read_bytes()}
    put_in_ollama(home / ".ollama/models", "registry.ollama.ai/library/speaker/latest", speaking_path)
    sidecar = tmp_path / "mine.pass.gguf"
    write_sidecar(lookahead_for(speaking_path), sidecar)
    done = run("inspect", NAME, "ollama:speaker", sidecar, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [Path(each["file"]).is_relative_to(home) for each in report["files"]] == [True, True, False]
    assert [pair["fits"] for pair in report["pairs"]] == [True, True]
    done = run("quantize", NAME, tmp_path / "small.gguf", "Q8_0")
    assert done.exit_code == 0, done.output
    done = run("merge", "ollama:speaker", sidecar, "-o", tmp_path / "merged.gguf")
    assert done.exit_code == 0, done.output
    assert_refused(run("inspect", "speakr"), "is ollama:speaker:latest meant")
    assert_refused(run("quantize", f"{NAME}:Q4_0", tmp_path / "other.gguf", "Q8_0"), "it has F16")
    assert_refused(run("merge", "speakr", sidecar, "-o", tmp_path / "other.gguf"), "ollama:speaker:latest")
