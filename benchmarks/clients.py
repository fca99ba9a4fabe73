"""Ask ``pass-edge serve`` through clients that people use, and print what came of it as a table in Markdown.

    python benchmarks/clients.py -m MODEL.gguf CLIENTS/bin/python …
    python benchmarks/clients.py -m MODEL.gguf --only openai --traceback

``client_checks.py`` runs in each interpreter (by default in this one), for the clients that it has and those
before it have not. The chat template of the model must have tools.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from client_checks import CHECKS
from server_behaviours import serving

JS_CHECK = Path(__file__).with_name("client_checks.mjs")
JS_DONE = "chat, stream; `parse` of a zod schema; `runTools`, streamed; Responses, streamed"


def rows(python: str, url: str, clients: Sequence[str], options: Sequence[str]) -> Iterator[str]:
    """The rows of those ``clients`` that ``python`` has."""
    command = [python, str(JS_CHECK.with_suffix(".py")), url, *clients, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield from (line.rstrip() for line in process.stdout if line.startswith("| "))


def javascript_row(url: str, folder: Path) -> str:
    """The row of OpenAI's client for JavaScript, which is installed in ``folder``."""
    command = ["node", "--input-type=module", "--eval", JS_CHECK.read_text()]
    environment = {**os.environ, "OPENAI_BASE_URL": f"{url}/v1"}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    result = "fails" if done.returncode else "works"
    return f"| openai (JavaScript) | {done.stdout.strip()} | {JS_DONE} | {result} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="interpreters that have clients")
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="CLIENT", default=list(dict.fromkeys(dict(CHECKS))))
    parser.add_argument("--traceback", action="store_true", help="show where a check failed")
    parser.add_argument("--js", type=Path, help="folder in which `npm install openai zod` has run")
    chosen = parser.parse_args()
    left = chosen.only
    print("| client | version | what it did | result |\n| --- | --- | --- | --- |", flush=True)
    with serving(chosen.model, "-c", "8192", "--parallel", "1") as server:
        for python in chosen.pythons:
            for row in rows(python, server.url, left, ["--traceback"] * chosen.traceback):
                print(row, flush=True)
                left = [client for client in left if not row.startswith(f"| {client} |")]
        if chosen.js:
            print(javascript_row(server.url, chosen.js))
    for client in left:
        print(f"| {client} | | | not installed |")


if __name__ == "__main__":
    main()
