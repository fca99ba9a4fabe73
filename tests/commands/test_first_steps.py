"""What newcomers type: each wrong command line is answered with the one to type instead."""

from __future__ import annotations

import platform
import shlex
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from pass_edge.__main__ import main
from pass_edge.native.library import kernels
from tests.support.command_line import assert_refused, run

COMMANDS = main.list_commands(click.Context(main))


@pytest.mark.parametrize(
    ("typed", "advised"),
    [
        ("chta", "pass-edge chat"),
        ("CHAT", "pass-edge chat"),
        ("generat 'Hi there' -n 3", "pass-edge generate 'Hi there' -n 3"),
        ("server", "pass-edge serve"),
        ("run model.gguf", "pass-edge chat -m model.gguf"),
        ("run model.gguf --temp 0", "pass-edge chat -m model.gguf --temp 0"),
        ("benchmark model.gguf", "pass-edge bench model.gguf"),
        ("model.gguf", "pass-edge chat -m model.gguf"),
        ("my/MODEL.GGUF --temp 0", "pass-edge chat -m my/MODEL.GGUF --temp 0"),
        ("'Name three rivers.'", "pass-edge generate 'Name three rivers.'"),
        ("version", "pass-edge --version"),
        ("chat model.gguf", "pass-edge chat -m model.gguf"),
        ("serve model.gguf --port 0", "pass-edge serve -m model.gguf"),
        ("chat hello", "pass-edge generate hello"),
        ("-m model.gguf", "pass-edge chat -m model.gguf"),
        ("--temp 0", "pass-edge chat --temp 0"),
        ("help chta", "pass-edge chat"),
        ("run user/repo:Q4_0", "pass-edge chat -m user/repo:Q4_0"),
        ("run qwen2.5:0.5b", "pass-edge chat -m qwen2.5:0.5b"),
        ("ollama:qwen", "pass-edge chat -m ollama:qwen"),
        ("user/repo --temp 0", "pass-edge chat -m user/repo --temp 0"),
        ("pull user/repo", "pass-edge models pull user/repo"),
        ("list", "pass-edge models"),
        ("rm user/repo", "pass-edge models rm user/repo"),
    ],
)
def test_a_wrong_command_line_is_answered_with_the_right_one(typed: str, advised: str) -> None:
    result = run(*shlex.split(typed))
    assert_refused(result)
    assert f"{advised}\n" in result.stderr


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("frobnicate", ", ".join(COMMANDS)),
        ("chat --hlep", "'--help'"),
        ("--verison", "'--version'"),
        ("generate Hi --modle x", "'--model'"),
        ("doctor one two", "unexpected extra argument (two)"),
        ("quantize", "Missing argument 'FILE|NAME'"),
        ("generate", "give a PROMPT, or text on standard input"),
        ("completion tcsh", "'bash', 'zsh', 'fish'"),
    ],
)
def test_other_mistakes_say_what_is_possible(typed: str, word: str) -> None:
    assert_refused(run(*shlex.split(typed)), word)


def test_pass_edge_alone_and_help_list_the_commands() -> None:
    told = run("help")
    assert told.exit_code == 0
    assert told.stdout == run("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in told.stdout
    assert str(Path(__file__).resolve().parents[2] / "docs" / "index.md") in told.stdout.replace("\n  ", "")
    alone = run()
    assert alone.stderr.strip() == told.stdout.strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_each_command(name: str) -> None:
    assert run("help", name).stdout == run(name, "--help").stdout


def test_the_version_names_all_that_a_bug_report_needs() -> None:
    told = run("--version").stdout.splitlines()
    assert told[0] == f"pass-edge {version('pass-edge')}"
    assert told[1].startswith(f"llama-cpp-python {version('llama-cpp-python')}, ")
    assert (f"({kernels()})" if kernels() else "llama.cpp's kernels") in told[1]
    assert told[2] == f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


# -- models -------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("tiny.Q4_0.gguf", "tiny.Q8_0.gguf", "other.gguf", "zebra.gguf"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        ("generate Hi -m", "tiny.q4_0.gguf", ["there is no file", "did you mean", "tiny.Q4_0.gguf"]),
        ("serve --port 0 -m", "tiny.Q4_0.ggfu", ["did you mean", "tiny.Q4_0.gguf"]),
        ("bench", "Tiny.Q4_0", ["did you mean", "tiny.Q4_0.gguf"]),
        ("doctor", "nothing/tiny.gguf", ["there is no file", "no folder"]),
        ("generate Hi -m", "", ["is a folder", "other.gguf, tiny.Q4_0.gguf, tiny.Q8_0.gguf, …"]),
    ],
)
def test_a_wrong_path_is_answered_with_the_files_that_are_there(
    command: str, typed: str, words: list[str], models: Path
) -> None:
    assert_refused(run(*command.split(), str(models / typed)), *words)


def test_a_missing_file_without_similar_ones_is_just_missing(models: Path) -> None:
    result = run("generate", "Hi", "-m", str(models / "qwen3.gguf"))
    assert_refused(result, "there is no file")
    assert "did you mean" not in result.stderr


def test_a_folder_of_another_format_says_so(tmp_path: Path) -> None:
    assert_refused(run("generate", "Hi", "-m", str(tmp_path)), "without a .gguf file")
    (tmp_path / "model.safetensors").touch()
    assert_refused(run("generate", "Hi", "-m", str(tmp_path)), "safetensors", "convert it to GGUF")


def test_a_taken_port_says_how_to_take_another(tiny_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_refused(run("serve", "-m", str(tiny_path), "--port", port), port, "--port")


# -- shell completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell: str) -> None:
    script = run("completion", shell)
    assert script.exit_code == 0
    assert f"_PASS_EDGE_COMPLETE={shell}_complete" in script.stdout


def test_bash_completes_commands_options_and_files(tmp_path: Path) -> None:
    if not (bash := shutil.which("bash")):
        pytest.skip("there is no bash")
    (tmp_path / "pass-edge").write_text(f'#!/bin/sh\nexec {sys.executable} -m pass_edge "$@"\n')
    (tmp_path / "pass-edge").chmod(0o755)

    def completed(*words: str) -> list[str]:
        line = f"COMP_WORDS=(pass-edge {shlex.join(words)}); COMP_CWORD={len(words)}"
        script = (
            f'PATH={tmp_path}:$PATH; eval "$(pass-edge completion bash)"; {line}; '
            '_pass_edge_completion pass-edge; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run([bash, "-c", script], capture_output=True, text=True, cwd=tmp_path)
        return done.stdout.split()

    assert completed("ch") == ["chat"]
    assert completed("generate", "--json-") == ["--json-schema-file"]
    assert completed("completion", "f") == ["fish"]
    (tmp_path / "model.gguf").touch()
    assert completed("generate", "-m", "mod") in ([], ["model.gguf"])  # bash itself completes files
