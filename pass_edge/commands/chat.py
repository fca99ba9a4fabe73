"""pass-edge chat: a conversation in the terminal, or through a pipe."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from pass_edge.commands.terminal.keyboard import silent_keyboard, typed_messages
from pass_edge.commands.terminal.output import DRAFTED, Answer, PlainText, quiet, show, summary
from pass_edge.commands.terminal.standard_input import piped_messages

from .engine_options import open_engine, sampling_from, shared_options

if TYPE_CHECKING:
    from pass_edge import Engine, Stats

    from .conversation import Conversation

CHAT_HELP = """\
/help              this list
/reset             forget the conversation
/system TEXT       set the system message and start anew
/stats             what the last answer cost and gained
/save FILE [--kv]  save the conversation; with its KV cache, it need not be read again
/load FILE         go on with a saved one
/quit              leave (so does Ctrl-D)
Ctrl-C stops an answer. Esc Enter, or a backslash at the end, starts a new line.
What is pasted is one message, whatever lines it has."""


@click.command()
@click.option("--system", help="A system message.")
@click.option("--plain", is_flag=True, help="Show answers as they are, not as markdown.")
@click.option("--show-drafts", is_flag=True, help="Show accepted draft tokens in another shade.")
@shared_options
def chat(system: str | None, plain: bool, show_drafts: bool, **options: Any) -> None:
    """Chat in the terminal; /help lists what you can type. Without a terminal, each line is a message.

    \b
    pass-edge chat --show-drafts
    pass-edge chat --model model.gguf --system "Be brief." --temp 0
    """
    from .conversation import Conversation

    sampling = sampling_from(options)
    with open_engine(options) as engine:
        limits = {"sampling": sampling, "max_tokens": options["max_tokens"], "stop": options["stop"]}
        room = ChatRoom(engine, Conversation(system), limits, plain=plain, shows_drafts=show_drafts)
        if sys.stdin.isatty():
            quiet(f"{engine.model.metadata('general.name') or engine.model.path.name}: /help, /quit")
        if show_drafts and sys.stdout.isatty():
            click.secho("accepted drafts are shown in this shade", fg=DRAFTED, err=True)
        with silent_keyboard():
            for line in typed_messages() if sys.stdin.isatty() else piped_messages():
                if not room.take(line):
                    break


class ChatRoom:
    """What one typed line does to a conversation."""

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        limits: dict[str, Any],
        *,
        plain: bool = False,
        shows_drafts: bool = False,
    ) -> None:
        self.engine = engine
        self.conversation = conversation
        self.limits = limits
        self.plain = plain or not sys.stdout.isatty()
        self.shows_drafts = shows_drafts
        self.last: Stats | None = None
        self.commands = {
            "/help": lambda _: click.echo(CHAT_HELP),
            "/reset": self.reset,
            "/system": self.set_system,
            "/stats": self.tell_stats,
            "/save": self.save,
            "/load": self.load,
        }

    def take(self, line: str) -> bool:
        """Act on ``line``; false when the chat is over. Mistakes are told, and the chat goes on."""
        from pass_edge import PassEdgeError

        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return False
        try:
            if is_command(line):
                self.act(command, rest.strip())
            elif command:
                self.answer(line)
        except PassEdgeError as error:
            click.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            self.engine.session.forget()  # wherever it was cut, what it has read cannot be relied on
            quiet("stopped")
        return True

    def act(self, command: str, rest: str) -> None:
        from pass_edge import SettingsError

        if command not in self.commands:
            raise SettingsError(f"there is no {command}; /help lists what there is")
        self.commands[command](rest)

    def reset(self, _: str) -> None:
        self.conversation.turns.clear()
        self.engine.session.forget()
        quiet("the conversation is forgotten")

    def set_system(self, text: str) -> None:
        from .conversation import Conversation

        self.conversation = Conversation(text or None)
        self.engine.session.forget()
        quiet("a new conversation")

    def tell_stats(self, _: str) -> None:
        quiet(statistics(self.last) if self.last else "nothing has been answered yet")

    def save(self, rest: str) -> None:
        words = rest.split(" ")
        path = file_named(" ".join(word for word in words if word != "--kv"), "/save")
        self.engine.session.save(
            path,
            messages=self.conversation.messages,
            sampling=self.limits["sampling"],
            kv="--kv" in words,
        )
        quiet(f"saved to {path}, {os.path.getsize(path):,} bytes")

    def load(self, rest: str) -> None:
        from .conversation import Conversation

        saved = self.engine.session.load(file_named(rest, "/load"))
        self.conversation = Conversation.of(saved.messages)
        self.limits["sampling"] = saved.sampling or self.limits["sampling"]
        how = "with their KV cache" if saved.cache else "read again"
        quiet(f"{len(saved.messages)} messages loaded, {len(saved.tokens)} tokens {how}")

    def answer(self, question: str) -> None:
        from pass_edge import ContextFullError, PassEdgeError

        self.conversation.ask(question)
        try:
            generation = self.engine.chat(self.conversation.messages, **self.limits)
            show(generation, self.display())
        except (PassEdgeError, KeyboardInterrupt) as error:
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

    def display(self) -> Answer:
        """Where the next answer is written."""
        if self.plain:
            return PlainText(shows_drafts=self.shows_drafts)
        from rich.console import Console

        from pass_edge.commands.terminal.markdown import Markdown

        # a COLUMNS left by another program would outlast every resize
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        return Markdown(Console(_environ=environment), shows_drafts=self.shows_drafts)


def is_command(line: str) -> bool:
    """Whether ``line`` is one, not a message that happens to start with a slash (a path, pasted code)."""
    return bool(re.fullmatch(r"/\w+( [^\n]*)?", line.strip()))


def file_named(name: str, command: str) -> str:
    from pass_edge import SettingsError

    name = name.strip()
    if not name or "\0" in name:
        raise SettingsError(f"{command} needs the name of a file")
    return os.path.expanduser(name)


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
