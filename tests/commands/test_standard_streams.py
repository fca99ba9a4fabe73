"""Pipes, terminals, full disks and closed outputs: what goes in is used, and nothing ends in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from pass_edge import Generation
from pass_edge.engine import Engine
from tests.support.command_line import assert_refused, run
from tests.support.reciting_model import write_reciting_model

COMMAND = [sys.executable, "-m", "pass_edge"]


@pytest.fixture(scope="module")
def reciter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers everything with three words."""
    path = tmp_path_factory.mktemp("reciter") / "m.gguf"
    return write_reciting_model(path, ("One ", "two ", "three."))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that reach the engine, as they are with --raw, or the question of a chat."""
    prompts: list[str] = []
    stream = Engine.stream

    def spy(self: Engine, prompt: object, **options: object) -> Generation:
        if isinstance(prompt, str):
            prompts.append(prompt)
        return stream(self, prompt, **options)  # type: ignore[arg-type]

    def chat(self: Engine, messages: list[dict[str, str]], **options: object) -> Generation:
        prompts.append(messages[-1]["content"])
        return stream(self, self.render(messages), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "stream", spy)
    monkeypatch.setattr(Engine, "chat", chat)
    return prompts


@pytest.mark.parametrize("raw", [[], ["--raw"]])
@pytest.mark.parametrize(
    ("argument", "piped", "prompt"),
    [
        (["Sum up."], b"Notes.\n", "Notes.\n\nSum up."),
        (["Sum up."], b"", "Sum up."),
        (["Sum up."], b"\n", "Sum up."),
        ([], b"Notes.\n", "Notes."),
        ([], b"Notes.\n\n", "Notes.\n"),
        ([], b"Notes.", "Notes."),
        ([], b"a\r\nb\r\n", "a\nb"),
        ([], b"\xef\xbb\xbfcaf\xc3\xa9\r\n", "café"),
        (["Sum up.\n"], b"a\r\nb\r\n", "a\nb\n\nSum up.\n"),
        ([""], b"Notes.\n", "Notes."),
    ],
)
def test_piped_text_comes_before_the_prompt(
    argument: list[str], piped: bytes, prompt: str, raw: list[str], reciter: Path, asked: list[str]
) -> None:
    done = run("generate", *argument, *raw, "-m", reciter, "-n", "2", stdin=piped)
    assert done.exit_code == 0, done.output
    assert asked == [prompt]


def test_lines_of_a_piped_chat_may_end_as_in_windows(reciter: Path, asked: list[str]) -> None:
    assert (
        run("chat", "-m", reciter, "-n", "2", stdin=b"\xef\xbb\xbfHi\r\nGo\r\n/quit\r\nno\r\n").exit_code == 0
    )
    assert asked == ["Hi", "Go"]


def test_an_answer_in_a_pipe_is_what_the_model_wrote(tmp_path: Path) -> None:
    model = write_reciting_model(tmp_path / "m.gguf", ("\x1b[31mred", "\r\n", "\tend"))
    done = run("generate", "Hi", "-m", model, "--temp", "0")
    assert done.stdout_bytes == b"\x1b[31mred\r\n\tend\n"


@pytest.mark.parametrize("option", ["--system", "--stop"])
def test_arguments_that_are_no_utf_8(option: str, reciter: Path) -> None:
    broken = os.fsdecode(b"caf\xe9")
    for arguments in ([broken], ["Hi", option, broken]):
        result = run("generate", *arguments, "-m", reciter)
        assert_refused(result, "is not valid UTF-8")


def test_paths_that_are_no_utf_8(reciter: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    model = folder / os.fsdecode(b"m\xff.gguf")
    model.write_bytes(reciter.read_bytes())
    done = run("generate", "Hi", "-m", model, "--temp", "0", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["text"] == "One two three."
    quantized = folder / os.fsdecode(b"q\xff.gguf")
    done = run("quantize", model, quantized, "Q8_0")
    assert done.exit_code == 0, done.output
    assert quantized.read_bytes()[:4] == b"GGUF"
    assert run("inspect", model, quantized).exit_code == 0
    assert run("doctor", model).exit_code == 0
    assert_refused(run("generate", "Hi", "-m", folder / os.fsdecode(b"\xfe.gguf")), "there is no file")


@pytest.mark.parametrize("seed", ["-1", "7"])
def test_a_seed_of_minus_one_is_drawn(seed: str, reciter: Path) -> None:
    seeds = set()
    for _ in range(2):
        done = run("generate", "Hi", "-m", reciter, "-n", "1", "--seed", seed, "--json")
        assert done.exit_code == 0, done.output
        seeds.add(json.loads(done.stdout)["seed"])
    assert min(seeds) >= 0
    assert len(seeds) == (2 if seed == "-1" else 1)


def test_minus_one_tokens_are_as_many_as_fit(reciter: Path) -> None:
    done = run("generate", "Hi", "-m", reciter, "-n", "-1", "--temp", "0")
    assert done.stdout == "One two three.\n"
    assert_refused(run("generate", "Hi", "-m", reciter, "-n", "-2"), "1 or more, or -1")


# -- outputs ------------------------------------------------------------------------------------------


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which $PASS is the command, and -o pipefail holds."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=os.environ | {"PASS": " ".join(COMMAND)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["generate Hi -m $MODEL", "generate Hi --json -m $MODEL", "--help"])
def test_a_full_disk_is_one_sentence(arguments: str, reciter: Path) -> None:
    done = shell(f"$PASS {arguments} >/dev/full", MODEL=str(reciter))
    errors = [
        line for line in done.stderr.decode().splitlines() if "tokens/s" not in line and "…" not in line
    ]
    assert done.returncode == 2
    assert errors[-1] == "Error: the output cannot be written or read: No space left on device"
    assert "Traceback" not in done.stderr.decode()
    assert "Exception ignored" not in done.stderr.decode()


@pytest.mark.parametrize("arguments", ["generate Hi -m $MODEL", "--help"])
def test_a_reader_that_leaves_ends_it_quietly(arguments: str, reciter: Path) -> None:
    done = shell(f"$PASS {arguments} | true", MODEL=str(reciter))
    assert b"Traceback" not in done.stderr
    assert b"Broken pipe" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-", "<&-", "<&- 2>&-"])
def test_an_answer_needs_neither_input_nor_notes(closed: str, reciter: Path) -> None:
    done = shell(f"$PASS generate Hi --temp 0 -m $MODEL {closed}", MODEL=str(reciter))
    assert (done.returncode, done.stdout) == (0, b"One two three.\n"), done.stderr


def test_a_closed_output_is_no_traceback(reciter: Path) -> None:
    done = shell("$PASS generate Hi -m $MODEL >&-", MODEL=str(reciter))
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr


def test_a_terminal_that_cannot_show_a_character_shows_a_question_mark(tmp_path: Path) -> None:
    model = write_reciting_model(tmp_path / "m.gguf", ("café ", "🦙"))
    done = shell("$PASS generate Hi --temp 0 -m $MODEL", MODEL=str(model), PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout) == (0, "café ?\n".encode("latin-1")), done.stderr


# -- terminals ----------------------------------------------------------------------------------------


def in_terminal(arguments: list[str], **environment: str) -> pexpect.spawn[str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    return pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], *arguments],
        env={**plain, "TERM": "xterm-256color"} | environment,
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 100),
    )


def test_generate_in_a_terminal_says_what_it_waits_for(reciter: Path) -> None:
    child = in_terminal(["generate", "-m", str(reciter), "--temp", "0"])
    try:
        child.expect("type the prompt; Ctrl-D on an empty line ends it")
        child.sendline("Hi")
        child.sendeof()
        child.expect("One two three.")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0


@pytest.mark.parametrize(
    ("command", "environment", "is_styled"),
    [
        ("generate", {}, True),
        ("generate", {"NO_COLOR": "1"}, False),
        ("generate", {"TERM": "dumb"}, False),
        ("doctor", {"NO_COLOR": "1"}, False),
        ("quantize", {"TERM": "dumb"}, False),
        ("quantize", {"NO_COLOR": "1"}, False),
    ],
)
def test_no_escape_codes_where_none_are_wanted(
    command: str, environment: dict[str, str], is_styled: bool, reciter: Path, tmp_path: Path
) -> None:
    arguments = {
        "generate": ["generate", "Hi", "-m", str(reciter)],
        "doctor": ["doctor", "-m", str(reciter)],
        "quantize": ["quantize", str(reciter), str(tmp_path / "q.gguf"), "Q8_0"],
    }[command]
    child = in_terminal(arguments, **environment)
    try:
        child.expect(pexpect.EOF)
    finally:
        child.close()
    assert child.exitstatus == 0, child.before
    assert ("\x1b" in child.before) == is_styled


def test_a_chat_in_a_dumb_terminal(reciter: Path) -> None:
    child = in_terminal(["chat", "-m", str(reciter), "--temp", "0"], TERM="dumb")
    try:
        child.expect("> ")
        child.send("Hi\r")
        child.expect("One two three.")
        child.expect("tokens/pass")
        shown = child.before
        child.send("/quit\r")
        child.expect(pexpect.EOF)
        shown += child.before
    finally:
        child.close(force=True)
    assert child.exitstatus == 0
    assert "\x1b" not in shown
