"""Makes docs/chat.svg: a chat with the default model in a real terminal (tmux), as the window showed it.

python docs/chat_screenshot.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 92, 40
COMMAND = "chat --show-drafts --temp 0 --n-predict 96"
QUESTIONS = (
    "Write a pancake recipe in markdown, with bold ingredients and numbered steps.",
    "Write it again, but for waffles.",
)
SECONDS = 300


def main() -> None:
    try:
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        tmux("new-session", "-d", *size, f"{sys.executable} -m pass_edge {COMMAND}")
        for answered, question in enumerate(QUESTIONS):
            wait_for_prompt(answered)
            tmux("send-keys", "-l", question)
            tmux("send-keys", "Enter")
        wait_for_prompt(len(QUESTIONS))
        shown = tmux("capture-pane", "-p", "-e").rstrip()
    finally:
        tmux("kill-server")
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(Text.from_ansi(shown), soft_wrap=True)
    console.save_svg(str(Path(__file__).with_name("chat.svg")), title=f"pass-edge {COMMAND}")


def wait_for_prompt(answers: int) -> None:
    """Until there have been so many answers and the chat waits for a message."""
    deadline = time.monotonic() + SECONDS
    while True:
        screen = tmux("capture-pane", "-p", "-S", "-").rstrip("\n ")
        if screen.count("tokens/pass") >= answers and screen.endswith("\n>"):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"no answer in {SECONDS} seconds:\n{screen}")
        time.sleep(0.1)


def tmux(*arguments: str) -> str:
    command = ["tmux", "-L", "pass-edge-screenshot", "-f", "/dev/null", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
