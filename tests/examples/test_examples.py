"""The examples do what they say, with the default model where its answers do not matter."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from urllib.error import HTTPError

import pytest

from pass_edge import Engine
from tests.support.reciting_model import write_reciting_model
from tests.support.tiny_bert import write_tiny_bert

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example as its command line would, and return what it prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        example(name).main()
        return capsys.readouterr().out

    return run


# -- all of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_uses_the_public_names(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 80
    assert re.findall(r"(?m)^ *(?:from|import) pass_edge.*", text) == re.findall(
        r"(?m)^from pass_edge import .*", text
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_explains_an_example(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(name, "--help")
    assert "--model MODEL" in capsys.readouterr().out


def test_the_page_shows_a_command_for_each_example(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FOLDER / "README.md").read_text()
    assert sorted(re.findall(r"\[(\w+)\.py\]\(\1\.py\)", text)) == EXAMPLES
    usages = text + "".join((FOLDER / f"{name}.py").read_text() for name in EXAMPLES)
    commands = [shlex.split(line)[1:] for line in re.findall(r"(?m)^    (python examples/[^<>\n]*)", usages)]
    assert {Path(command[0]).stem for command in commands} == set(EXAMPLES)
    for path, *arguments in commands:
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        module = example(Path(path).stem)
        with pytest.raises(ParsedError):
            parse(module, monkeypatch)


class ParsedError(Exception):
    pass


def parse(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``module`` until its arguments are parsed."""
    whole = module.argparse.ArgumentParser.parse_args

    def parse_args(parser: object) -> None:
        whole(parser)
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(module.argparse.ArgumentParser, "parse_args", parse_args)
        module.main()


# -- answers from documents ---------------------------------------------------------------------------


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    (folder / "more").mkdir(parents=True)
    (folder / "more/rivers.md").write_text("# Rivers\n\nThe Danube is long.\n\n" + "Rivers flow. " * 90)
    (folder / "trees.txt").write_text("The oak is old.\n\nThe birch is white.")
    (folder / "picture.png").write_bytes(b"\x89PNG the Danube")
    return folder


def test_documents_are_found_by_their_words(run: Run, documents: Path, speaking_path: Path) -> None:
    asked = "documents", documents, "-m", speaking_path
    said = run(*asked, "How long is the Danube?", "-n", 8)
    answer, sources = said.split("\n\nFrom: ")
    assert answer.strip()
    assert sources.split(", ")[0].strip() == "more/rivers.md"
    assert run(*asked, "Is the birch white?", "-n", 1).split("From: ")[1].startswith("trees")


def test_documents_are_found_by_an_embedding_model(
    run: Run, documents: Path, speaking_path: Path, tmp_path: Path
) -> None:
    model = write_tiny_bert(tmp_path / "bert.gguf", context=512)
    assert "From: " in run("documents", documents, "oak", "-n", 1, "-m", speaking_path, "-e", model)
    module = example("documents")
    texts = ["yes", "no", "the river"]
    scores = module.by_meaning("no", texts, str(model))
    assert max(zip(scores, texts, strict=True))[1] == "no"
    assert max(scores) == pytest.approx(1, abs=1e-5)


def test_passages_are_pieces_of_the_documents(documents: Path) -> None:
    module = example("documents")
    found = module.passages(documents)
    assert [name for name, _ in found] == ["more/rivers.md", "more/rivers.md", "trees.txt"]
    assert max(len(text) for _, text in found) <= module.PASSAGE
    assert found[-1][1] == "The oak is old.\n\nThe birch is white."


def test_a_folder_without_documents_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("documents", tmp_path, "Why?")
    assert "there is no .md" in capsys.readouterr().err


# -- e-mails ------------------------------------------------------------------------------------------

MAIL = """\
From: Anna <anna@example.org>
Subject: =?utf-8?q?My_order_of_4_M=C3=A4rz?=
Content-Type: text/plain; charset=utf-8

Where is it?
"""


def test_mails_become_objects_of_the_schema(run: Run, speaking_path: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.eml", tmp_path / "b.txt"]
    files[0].write_text(MAIL)
    files[1].write_text("\nThe heating is cold. Please call me.")
    lines = run("mails", *files, "-m", speaking_path).splitlines()
    assert [json.loads(line)["file"] for line in lines] == list(map(str, files))
    schema = example("mails").SCHEMA
    for line in lines:
        told = json.loads(line)
        assert set(told) == {"file", *schema["required"]}
        assert told["topic"] in schema["properties"]["topic"]["enum"]
        assert isinstance(told["asks_for_reply"], bool)


def test_headers_of_mails_are_decoded() -> None:
    told = example("mails").plain_text(MAIL.encode())
    assert told == "Subject: My order of 4 März\nFrom: Anna <anna@example.org>\n\nWhere is it?\n"


# -- fill in ------------------------------------------------------------------------------------------

PIECES = ["<fim_suffix>", "<fim_middle>", "return", " a", " +", " b", "<fim_prefix>", "def f(a, b):", "\n"]


@pytest.mark.parametrize("place", ["1:12", "1:99"])
def test_code_is_filled_in_at_the_cursor(run: Run, tmp_path: Path, place: str) -> None:
    model = write_reciting_model(tmp_path / "model.gguf", PIECES)
    (tmp_path / "app.py").write_text("def f(a, b):\n")
    assert run("fill_in", tmp_path / "app.py", place, "-m", model) == "return a + b"


def test_a_model_that_cannot_fill_in_says_so(speaking_path: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def f(a, b):\n")
    command = [sys.executable, str(FOLDER / "fill_in.py"), str(tmp_path / "app.py"), "1:12"]
    command += ["-m", str(speaking_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "fill-in-the-middle" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "column", "before"),
    [(1, 0, ""), (1, 2, "ab"), (1, 9, "ab"), (2, 1, "ab\r\nc"), (3, 0, "ab\r\ncd\n"), (9, 5, "ab\r\ncd\n")],
)
def test_a_cursor_splits_a_text(line: int, column: int, before: str) -> None:
    text = "ab\r\ncd\n"
    assert example("fill_in").split_at(text, line, column) == (before, text[len(before) :])


# -- the assistant ------------------------------------------------------------------------------------


def test_the_assistant_calls_tools_and_answers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "todo.txt").write_text("Buy milk.")
    lines = iter(["What is 17 * 23?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    calls = run("assistant", tmp_path)
    assert re.match(r"  (time|calculate|read_file) \{", calls)
    assert not calls.splitlines()[-1].startswith("  ")


@pytest.mark.parametrize(
    "expression", ["2**9", "2 * *9", "().__class__", "1(2)", "(1) (2)", "1/0", "f()", "", "é"]
)
def test_the_calculator_takes_only_arithmetic(expression: str) -> None:
    with pytest.raises((ValueError, SyntaxError, TypeError, ArithmeticError)):
        example("assistant").calculate(expression)


def test_the_calculator_calculates() -> None:
    assert example("assistant").calculate("3 * (4 + 5) - 1.5 / 3") == "26.5"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "missing"])
def test_files_outside_the_folder_are_not_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder := tmp_path / "folder").mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "inside").write_text("here")
    monkeypatch.chdir(folder)
    read_file = example("assistant").read_file
    assert read_file("inside") == "here"
    with pytest.raises((ValueError, OSError)):
        read_file(name)


# -- the web chat -------------------------------------------------------------------------------------


def asked(url: str, body: bytes, kind: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_the_web_chat_answers_in_a_browser(speaking_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "web_chat.py"), "-p", "0", "-m", str(speaking_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            match = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert match
            page = urllib.request.urlopen(match[0], timeout=60).read().decode()
            assert 'fetch("/chat"' in page
            good = json.dumps([{"role": "user", "content": "Hi"}]).encode()
            status, answer = asked(f"{match[0]}/chat", good)
            assert (status, bool(answer)) == (200, True)
            assert asked(f"{match[0]}/chat", good, "text/plain")[0] == 400
            for bad in (b"{", b"7"):
                assert asked(f"{match[0]}/chat", bad)[0] == 400, bad
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


# -- a batch ------------------------------------------------------------------------------------------


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    rows = "".join(f'{i},"a ""fine"" thing,\nit said",{"kept" if i == 2 else ""}\n' for i in range(6))
    (tmp_path / "reviews.csv").write_text(f"id,text,answer\n{rows}")
    return tmp_path / "reviews.csv"


def test_a_batch_answers_the_rows_that_have_no_answer(run: Run, reviews: Path) -> None:
    before = table(reviews)
    printed = run("batch", reviews, "Is it good? {text}", "-n", 3, "-p", 3)
    assert printed == ""  # its progress is told on standard error
    after = table(reviews)
    assert all(row["answer"] for row in after)
    assert after[2]["answer"] == "kept"
    assert [{**row, "answer": ""} for row in after] == [{**row, "answer": ""} for row in before]
    assert [path.name for path in reviews.parent.iterdir()] == ["reviews.csv"]


def test_a_batch_that_is_stopped_goes_on_later(
    run: Run, reviews: Path, speaking_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_asked, chat = 0, Engine.chat

    def counted(*arguments: object, **options: object) -> object:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 4:
            signal.raise_signal(signal.SIGINT)
        return chat(*arguments, **options)

    monkeypatch.setattr(Engine, "chat", counted)
    arguments = ("batch", reviews, "{text}", "-n", 4, "-p", 1, "-m", speaking_path, "-c", "new")
    n_threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run(*arguments)
    assert threading.active_count() == n_threads  # no progress bar goes on
    stopped = table(reviews)
    assert [row["id"] for row in stopped] == list("012345")
    assert 2 <= sum(bool(row["new"]) for row in stopped) < 6
    asked_before = n_asked = 100
    run(*arguments)
    after = table(reviews)
    assert n_asked - asked_before == sum(not row["new"] for row in stopped)
    assert all(row["new"] for row in after)
    assert all(new == old for old, new in zip(stopped, after, strict=True) if old["new"])
