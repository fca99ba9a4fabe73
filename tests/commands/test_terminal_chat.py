"""The chat in a real terminal (tmux): every command, markdown, drafts, resizing, pastes, wide characters, and
Ctrl-C. The model recites, so what must stand on the screen is known."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.reciting_model import write_reciting_model

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

POEM = (
    "# The ",
    "llama\n",
    "\n",
    "It is **",
    "bold** and ",
    "日本",
    "語 🦙 ",
    "too, `in ",
    "code`.\n",
    "- item ",
    "one",
)
SHOWN = ["The llama", "", "It is bold and 日本語 🦙 too, in code.", "• item one"]
ENDLESS = tuple(f"word{i} " for i in range(200))
CTRL_C, CTRL_D = "C-c", "C-d"
_NUMBERS = itertools.count()


class Terminal:
    """A tmux window with a chat in it."""

    def __init__(self, folder: Path, command: list[str], width: int, height: int) -> None:
        self._tmux = ["tmux", "-L", f"pass-edge-{os.getpid()}-{next(_NUMBERS)}", "-f", "/dev/null"]
        self._folder = folder
        environment = {
            "PASS_EDGE_CACHE": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
            "OMP_WAIT_POLICY": "passive",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "80",  # of when the chat began: it must not count after a resize
        }
        line = shlex.join(["env", *(f"{name}={value}" for name, value in environment.items()), *command])
        size = ["-x", str(width), "-y", str(height)]
        self.do("new-session", "-d", *size, f"{line}; echo the chat ended with $?; sleep 100")

    def do(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def screen(self, *, styled: bool = False, scrolled: bool = False) -> str:
        """What the window shows; ``scrolled``: with what has left it at the top, and no line cut where the
        window ends."""
        arguments = [*(["-e"] if styled else []), *(["-J", "-S", "-"] if scrolled else [])]
        return self.do("capture-pane", "-p", *arguments)

    def wait(self, holds: Callable[[str], bool], what: str, seconds: float = 60) -> str:
        deadline = time.monotonic() + seconds
        while not holds(screen := self.screen(scrolled=True)):
            assert time.monotonic() < deadline, f"no {what} on the screen:\n{screen}"
            time.sleep(0.02)
        return screen

    def type(self, text: str) -> None:
        self.do("send-keys", "-l", text)
        self.do("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        self.do("send-keys", *keys)

    def paste(self, text: str) -> None:
        """As a terminal does it: between brackets, if the program has asked for them."""
        (self._folder / "paste").write_text(text)
        self.do("load-buffer", str(self._folder / "paste"))
        self.do("paste-buffer", "-p")

    def told(self, text: str, times: int = 1) -> str:
        """The screen, once ``text`` stands on it so many times."""
        return self.wait(lambda screen: screen.count(text) >= times, repr(text))

    def is_waiting(self, answers: int) -> str:
        """The screen, once there have been so many answers and the chat waits for a message."""
        return self.wait(
            lambda screen: screen.count("tokens/pass") >= answers and screen.rstrip("\n ").endswith("\n>"),
            f"prompt after {answers} answers",
        )

    def close(self) -> None:
        self.do("kill-server")


Opener = Callable[..., Terminal]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_reciting_model(folder / "poem.gguf", POEM)
    write_reciting_model(folder / "endless.gguf", ENDLESS, endless=True)
    return folder


@pytest.fixture
def open_chat(models: Path, tmp_path: Path) -> Iterator[Opener]:
    opened: list[Terminal] = []

    def open_one(*options: str, model: str = "poem", width: int = 80, height: int = 50) -> Terminal:
        command = [sys.executable, "-m", "pass_edge", "chat", "--model", str(models / f"{model}.gguf")]
        terminal = Terminal(models, [*command, "--temp", "0", *options], width, height)
        opened.append(terminal)
        terminal.wait(lambda screen: screen.rstrip("\n ").endswith("\n>"), "prompt")
        return terminal

    yield open_one
    for terminal in opened:
        terminal.close()


def answer_lines(screen: str, question: str) -> list[str]:
    lines = [line.rstrip() for line in screen.splitlines()]
    start = lines.index(f"> {question}") + 1
    return lines[start : start + len(SHOWN)]


def messages_in(path: Path) -> list[str]:
    header = path.read_bytes().split(b"\n")[2]
    return [message["content"] for message in json.loads(header)["messages"]]


def test_every_command(open_chat: Opener, tmp_path: Path) -> None:
    chat = open_chat()
    chat.type("/help")
    screen = chat.told("even if it has several lines")
    for command in ("/help", "/reset", "/system", "/stats", "/save", "/load", "/quit"):
        assert f"\n{command} " in screen
    chat.type("/stats")
    chat.told("there is no answer yet")
    chat.type("/system Be brief.")
    chat.told("a new conversation")
    chat.type("Hello")
    assert answer_lines(chat.is_waiting(answers=1), "Hello") == SHOWN
    chat.type("/stats")
    chat.told("host share")
    chat.type(f"/save {tmp_path}/with cache --kv")
    chat.told("saved to")
    chat.type(f"/save {tmp_path}/without")
    chat.told("saved to", times=2)
    chat.type("/reset")
    chat.told("forgotten")
    assert messages_in(tmp_path / "without") == messages_in(tmp_path / "with cache") != []
    assert (tmp_path / "with cache").stat().st_size > (tmp_path / "without").stat().st_size
    chat.type(f"/load {tmp_path}/with cache")
    chat.told("3 messages loaded, 33 tokens with their KV cache")
    chat.type(f"/load {tmp_path}/without")
    chat.told("3 messages loaded, 33 tokens processed again")
    chat.type("Again")
    chat.is_waiting(answers=2)
    chat.type(f"/save {tmp_path}/again")
    chat.told("saved to", times=3)
    poem = "".join(POEM)
    assert messages_in(tmp_path / "again") == ["Be brief.", "Hello", poem, "Again", poem]
    chat.type("/quit")
    chat.told("the chat ended with 0")


def test_mistakes_never_end_the_chat(open_chat: Opener, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    chat = open_chat()
    for line, told in (
        ("/save", "/save needs the name of a file"),
        ("/save --kv", "/save needs the name of a file"),
        ("/load", "/load needs the name of a file"),
        (f"/load {tmp_path}/none", "cannot be read"),
        (f"/load {tmp_path}/notes", "is no saved session"),
        (f"/load {tmp_path}", "cannot be read"),
        (f"/save {tmp_path}/notes", "exists and is no saved"),
        (f"/save {tmp_path}/no/folder", "cannot be written"),
        ("/save ~nobody-has-this-name/x", "cannot be written"),
        ("/nonsense", "there is no /nonsense"),
    ):
        chat.type(line)
        chat.told(told)
        chat.is_waiting(answers=0)
    assert (tmp_path / "notes").read_text() == "mine"
    chat.type("Hello")
    assert answer_lines(chat.is_waiting(answers=1), "Hello") == SHOWN


def test_plain_text_is_shown_as_it_is(open_chat: Opener) -> None:
    chat = open_chat("--plain")
    chat.type("Hello")
    assert "It is **bold** and 日本語 🦙 too, `in code`." in chat.is_waiting(answers=1)


def test_accepted_drafts_have_a_shade(open_chat: Opener) -> None:
    # the second answer repeats the first, so drafts from the conversation are right
    chat = open_chat("--show-drafts", "--threads", "1")
    for asked in range(1, 8):
        chat.type(f"Hello {asked}")
        chat.is_waiting(answers=asked)
        if asked == 1:
            assert "\x1b[36m" not in chat.screen(styled=True).split("> Hello 1")[1]
    styled = chat.screen(styled=True, scrolled=True)
    assert "\x1b[36m" in styled.split("> Hello 2")[1], styled
    plain = chat.screen(scrolled=True)
    assert all(answer_lines(plain, f"Hello {asked}") == SHOWN for asked in range(1, 8))


def test_a_resize_and_ctrl_c_in_mid_answer(open_chat: Opener, tmp_path: Path) -> None:
    chat = open_chat("--ctx-size", "30000", model="endless", height=20)
    chat.type("Go on")
    chat.told("word150")
    chat.do("resize-window", "-x", "40")
    time.sleep(0.6)  # tmux resizes what runs in it a moment later
    before = chat.screen(scrolled=True).count("word199")
    chat.wait(lambda screen: screen.count("word199") > before + 1, "words after the resize")
    chat.press(CTRL_C)
    screen = chat.is_waiting(answers=1)
    # the lines of the last screen were all written at the new width, and no word is cut in two
    words = chat.screen().split("tokens/s")[0].split()[:-1]
    assert len(words) > 50
    assert set(words) <= {word.strip() for word in ENDLESS}, screen
    chat.type(f"/save {tmp_path}/s")
    chat.told("saved to")
    question, answer = messages_in(tmp_path / "s")
    assert question == "Go on"
    assert answer.split()[-len(words) :] == words
    chat.press(CTRL_C)  # and at the prompt it only clears the line
    chat.told("Ctrl-D or /quit leaves")
    chat.type("/stats")
    chat.told("host share")
    chat.press(CTRL_D)
    chat.told("the chat ended with 0")


def test_a_long_paste_is_one_message(open_chat: Opener, tmp_path: Path) -> None:
    chat = open_chat(height=20)
    pasted = "\n".join(f"/line {i} 日本語 🦙 {'x' * 10}" for i in range(60))
    chat.paste(pasted)
    chat.told("/line 59")
    chat.press("Enter")
    chat.is_waiting(answers=1)
    chat.type(f"/save {tmp_path}/s")
    chat.told("saved to")
    assert messages_in(tmp_path / "s") == [pasted, "".join(POEM)]


def test_ctrl_c_while_a_long_question_is_read(open_chat: Opener, tmp_path: Path) -> None:
    chat = open_chat("--ctx-size", "30000", height=20)
    chat.paste("x" * 20_000)
    chat.press("Enter")
    chat.wait(lambda _: chat.do("display", "-p", "#{cursor_x}").strip() == "0", "end of the prompt")
    time.sleep(0.5)  # it takes many more to read
    chat.press(CTRL_C)
    chat.told("stopped")
    chat.type("Hello")
    assert answer_lines(chat.is_waiting(answers=1), "Hello") == SHOWN
    chat.type(f"/save {tmp_path}/s")
    chat.told("saved to")
    assert messages_in(tmp_path / "s") == ["Hello", "".join(POEM)]


def test_what_is_typed_during_an_answer_waits_for_the_prompt(open_chat: Opener) -> None:
    chat = open_chat("--ctx-size", "30000", "--n-predict", "4000", model="endless")
    chat.type("Go on")
    chat.told("word150")
    chat.press(*"unheard")
    before = chat.screen(scrolled=True).count("word199")
    assert "unheard" not in chat.wait(lambda screen: screen.count("word199") > before + 1, "more words")
    assert "tokens/pass" in chat.told("\n> unheard")
