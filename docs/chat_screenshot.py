"""Make docs/chat.svg: a chat in a real terminal (tmux), as the window shows it.

python docs/chat_screenshot.py qwen2.5-coder-1.5b.Q4_K_M.gguf
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 92, 40
OPTIONS = "--show-drafts --temp 0"
QUESTIONS = (
    "Write a Python function that counts the words of a text. Code only.",
    "Give it a parameter for words to ignore. Code only.",
)
TIMEOUT = 300  # seconds


def main(model: Path) -> None:
    chat = f"{shlex.quote(sys.executable)} -m pass_edge chat {OPTIONS} --model"
    try:
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        tmux("new-session", "-d", *size, f"{chat} {shlex.quote(str(model))}")
        for n_answers, question in enumerate(QUESTIONS):
            wait_for_prompt(n_answers)
            tmux("send-keys", "-l", question)
            tmux("send-keys", "Enter")
        wait_for_prompt(len(QUESTIONS))
        screen = tmux("capture-pane", "-p", "-e").rstrip()
    finally:
        tmux("kill-server")
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(Text.from_ansi(screen), soft_wrap=True)
    title = f"pass-edge chat {OPTIONS} --model {model.name}"
    console.save_svg(str(Path(__file__).with_name("chat.svg")), title=title)


def wait_for_prompt(n_answers: int) -> None:
    """Wait until ``n_answers`` answers have ended and the chat asks for the next message."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        screen = tmux("capture-pane", "-p", "-S", "-").rstrip("\n ")
        if screen.count("tokens/pass") >= n_answers and screen.endswith("\n>"):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"no answer in {TIMEOUT} seconds:\n{screen}")
        time.sleep(0.1)


def tmux(*arguments: str) -> str:
    command = ["tmux", "-L", "pass-edge-screenshot", "-f", "/dev/null", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
