"""pass-edge chat: a conversation in the terminal, or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .engine_options import open_engine, sampling_from, shared_options
from .output import quiet, show, summary
from .standard_input import piped_messages

if TYPE_CHECKING:
    from pass_edge import Engine, Stats
    from pass_edge.chat import Conversation

CHAT_HELP = """\
/help          this list
/reset         forget the conversation
/system TEXT   set the system message and start anew
/stats         what the last answer cost and gained
/save FILE     save the conversation
/load FILE     go on with a saved one
/quit          leave (so does Ctrl-D)
Ctrl-C stops an answer. Esc Enter, or a backslash at the end, starts a new line."""


@click.command()
@click.option("--system", help="A system message.")
@shared_options
def chat(system: str | None, **options: Any) -> None:
    """Chat in the terminal; /help lists what you can type. Without a terminal, each line is a message."""
    from pass_edge.chat import Conversation

    sampling = sampling_from(options)
    with open_engine(options) as engine:
        limits = {"sampling": sampling, "max_tokens": options["max_tokens"], "stop": options["stop"]}
        room = ChatRoom(engine, Conversation(system), limits)
        if sys.stdin.isatty():
            quiet(f"{engine.model.metadata('general.name') or engine.model.path.name}: /help, /quit")
        for line in typed_messages() if sys.stdin.isatty() else piped_messages():
            if not room.take(line):
                break


class ChatRoom:
    """What one typed line does to a conversation."""

    def __init__(self, engine: Engine, conversation: Conversation, limits: dict[str, Any]) -> None:
        self.engine = engine
        self.conversation = conversation
        self.limits = limits
        self.last: Stats | None = None

    def take(self, line: str) -> bool:
        """Act on ``line``; false when the chat is over. Mistakes are told, and the chat goes on."""
        from pass_edge import PassEdgeError

        command, _, rest = line.strip().partition(" ")
        if not command:
            return True
        if command == "/quit":
            return False
        try:
            if command.startswith("/"):
                self.command(command, rest.strip())
            else:
                self.answer(line)
        except PassEdgeError as error:
            click.echo(f"Error: {error}", err=True)
        return True

    def command(self, command: str, rest: str) -> None:
        from pass_edge.chat import Conversation

        if command == "/help":
            click.echo(CHAT_HELP)
        elif command == "/reset":
            self.conversation.turns.clear()
            quiet("the conversation is forgotten")
        elif command == "/system":
            self.conversation = Conversation(rest or None)
            quiet("a new conversation")
        elif command == "/stats":
            quiet(statistics(self.last) if self.last else "nothing has been answered yet")
        elif command in ("/save", "/load") and not rest:
            click.echo(f"Error: {command} needs the name of a file", err=True)
        elif command == "/save":
            self.conversation.save(Path(rest).expanduser())
            quiet(f"saved to {rest}")
        elif command == "/load":
            self.conversation = Conversation.load(Path(rest).expanduser())
            quiet(f"{len(self.conversation.turns)} messages loaded")
        else:
            click.echo(f"Error: there is no {command}; /help lists what there is", err=True)

    def answer(self, question: str) -> None:
        from pass_edge import ContextFullError, PassEdgeError

        self.conversation.ask(question)
        try:
            generation = self.engine.chat(self.conversation.messages, **self.limits)
            show(generation)
        except PassEdgeError as error:
            self.conversation.withdraw()
            if isinstance(error, ContextFullError):
                raise ContextFullError(f"{error}. /reset starts a new conversation") from error
            raise
        self.conversation.answer(generation.text)
        self.last = generation.stats
        if generation.finish_reason == "context":
            quiet(
                f"the context of {self.engine.context_size} tokens is full; /reset starts a new conversation"
            )
        quiet(summary(generation.stats))


def statistics(stats: Stats) -> str:
    """The last answer's figures, a line each."""
    host = 1 - stats.model_seconds / stats.seconds if stats.seconds else 0.0
    accepted = " ".join(f"{share:.2f}" for share in stats.acceptance) or "-"
    lines = {
        "prompt": f"{stats.prompt_tokens} tokens, {stats.reused_tokens} reused, {stats.prompt_seconds:.2f} s",
        "answer": f"{stats.tokens} tokens in {stats.passes} passes, {stats.seconds:.2f} s",
        "speed": f"{stats.tokens_per_second:.1f} tokens/s, {stats.tokens_per_pass:.2f} tokens/pass",
        "accepted": f"{accepted} by depth",
        "host share": f"{host:.1%} of the time outside llama.cpp",
    }
    return "\n".join(f"{name:11} {text}" for name, text in lines.items())


def typed_messages() -> Iterator[str]:
    """Messages typed in a terminal, with editing, history and several lines."""
    from platformdirs import user_state_path
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    history = user_state_path("pass-edge") / "history"
    try:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch()
        history.read_text(encoding="utf-8")
        session: Any = PromptSession(history=FileHistory(str(history)), key_bindings=keys, multiline=True)
    except (OSError, UnicodeDecodeError) as error:
        quiet(f"the history {history} cannot be used ({error}); this chat keeps none")
        session = PromptSession(history=InMemoryHistory(), key_bindings=keys, multiline=True)
    while True:
        try:
            yield session.prompt("> ", prompt_continuation="  ")
        except (EOFError, KeyboardInterrupt):
            return
