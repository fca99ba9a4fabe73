"""Run other programs and ask what became of them; one that cannot run is an answer too."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def output(command: Sequence[str], stderr: int = subprocess.DEVNULL) -> str:
    """Return what a program prints; "" if it cannot run, fails, or does not end."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def exit_status(command: Sequence[str], stdin: str = "") -> int | None:
    """Return the exit status, negative for a signal; None if the program cannot run or does not end."""
    try:
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None
