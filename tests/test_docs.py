"""What README and docs show works: Python blocks run on a tiny model, and commands have the options shown."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import llama_cpp
import pytest
from markdown_it import MarkdownIt

from pass_edge import Engine, Settings, models
from pass_edge.__main__ import main
from tests.support.serving import serving

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each code block; "" is the language of those that name none."""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            yield token.info, token.content


def has_python(page: Path) -> bool:
    return any(language == "python" for language, _ in blocks(page))


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each call of pass-edge in a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        if not re.match(r"(\$ |[A-Z_]+=\S+ |echo .*\| )?pass-edge ", line):
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        start = words.index("pass-edge") + 1
        end = next((i for i, word in enumerate(words) if word in ("|", ">", "&&") and i > start), None)
        yield words[start:end]


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if has_python(page)], ids=ids)
def test_python_blocks_run(
    page: Path, speaking_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(speaking_path, tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(llama_cpp, "Llama", llama_cpp.Llama)  # a block puts ours in its place
    monkeypatch.setattr(models, "default_model", lambda: speaking_path)
    names: dict[str, object] = {"__name__": "__main__"}
    with (
        Engine(speaking_path, settings=Settings(threads=1)) as engine,
        serving(engine) as server,
    ):
        for language, text in blocks(page):
            if language == "python":
                here = text.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
                code = compile(here, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                result = eval(code, names)
                if inspect.iscoroutine(result):
                    asyncio.run(result)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    for language, text in blocks(page):
        if language in ("", "console", "sh"):
            for name, *arguments in commands(text):
                command = main.get_command(click.Context(main), name)
                assert command, name
                with click.Context(command) as context:
                    command.make_parser(context).parse_args(arguments)


def test_commands_are_found_where_they_are_shown() -> None:
    shown = [name for page in PAGES for _, text in blocks(page) for name, *_ in commands(text)]
    assert set(shown) >= set(main.list_commands(click.Context(main)))
