"""Start ``pass-edge serve`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

COMMAND = [sys.executable, "-m", "pass_edge", "serve", "--port", "0", "-t", "1"]


@contextmanager
def started(
    path: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its URL. ``environment``: variables beside those of this process."""
    with subprocess.Popen(
        [*COMMAND, "-m", str(path), *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        try:
            assert process.stderr
            line = next(line for line in process.stderr if "http://" in line)
            yield process, line[line.index("http://") : line.index("/v1")]
        finally:
            process.kill()
