"""Check ``pass-edge serve`` for the behaviours that the tests of llama.cpp's server check.

    python benchmarks/server_behaviours.py            # of the default model; prints a table in Markdown
    python benchmarks/server_behaviours.py tokenize   # the checks that are made in one file of its tests

One server has a key, one drafts nothing, and one has tokens for filling in, and a template that thinks and
knows the date.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import server_chat_checks  # noqa: F401  their checks are in CHECKS
import server_text_checks  # noqa: F401
from server_under_test import CHECKS, KEY, Server

from pass_edge.models import default_model
from pass_edge.native.tiny_model import write_tiny_model

TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@contextmanager
def serving(model: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "pass_edge", "serve", "-m", str(model), "--port", "0", "-c", "512"]
    process = subprocess.Popen([*command, "--alias", "alias", *options], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        line = next(line for line in process.stderr if "http://" in line)
        yield Server(line[line.index("http://") : line.index("/v1")])
    finally:
        process.terminate()
        process.wait(40)


def outcome(check: object, server: Server) -> str:
    """ "passes", or what went wrong."""
    try:
        check(server)  # type: ignore[operator]
    except Exception as error:
        return f"fails: {type(error).__name__} {str(error)[:80]}"
    return "passes"


def main() -> None:
    model = default_model()
    with TemporaryDirectory() as folder, serving(model) as plain, serving(model, "--api-key", KEY) as locked:
        words = [" ", "the", "assistant"]
        controls = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"]
        random = write_tiny_model(
            f"{folder}/random.gguf", words=words, controls=controls, chat_template=TEMPLATE
        )
        print("| llama.cpp's tests | behaviour | here |\n| --- | --- | --- |")
        with serving(random) as templated:
            servers = {"wrong_key": locked, "right_key": locked, "thinking": templated, "date": templated}
            servers["infill"] = templated
            for source, check in CHECKS:
                if source not in (sys.argv[1:] or source):
                    continue
                said = outcome(check, servers.get(check.__name__, plain))
                print(f"| {source} | {(check.__doc__ or '').strip()} | {said} |", flush=True)
        if "speculative" not in (sys.argv[1:] or "speculative"):
            return
        asked = {"temperature": 0.0, "n_predict": 64}
        text = plain.complete(**asked)["content"]
        texts = set()
        for options in (["--schedule", "plain"], ["--draft-max", "2"], ["--draft-max", "8"]):
            with serving(model, *options) as other:
                texts.add(other.complete(**asked)["content"])
        same = "passes" if texts == {text} else "fails"
        print(f"| speculative | The text with and without drafts, and for other lengths of them | {same} |")


if __name__ == "__main__":
    main()
