"""pass-edge chat: a conversation in the terminal, or through a pipe."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from pass_edge import ContextFullError, Engine, PassEdgeError, SettingsError, Stats
from pass_edge.commands.terminal.answer import DRAFTED, Display, PlainText, show, summary
from pass_edge.commands.terminal.keyboard import silent_keyboard, typed_messages
from pass_edge.commands.terminal.output import console, has_styles, quiet
from pass_edge.commands.terminal.standard_input import piped_messages, text
from pass_edge.thinking import split_thinking, thinking_of

from .conversation import Conversation
from .engine_options import open_engine, sampling_from, shared_options, template_options, thinking_options
from .first_model import offered_model

CHAT_HELP = """\
/help              show this list
/reset             start a new conversation
/system TEXT       start a new conversation with this system message
/think on|off      let the model think before it answers, or not
/stats             show the figures of the last answer
/save FILE [--kv]  save the conversation; with --kv, loading it need not process it again
/load FILE         continue a saved conversation
/quit              leave (so does Ctrl-D)
Ctrl-C stops an answer. Esc Enter, or a backslash at the end, starts a new line.
Pasted text is one message, even if it has several lines."""


@click.command()
@click.option("--system", type=text, help='A system message, such as "Be brief."')
@click.option("--plain", is_flag=True, help="Show answers as plain text, not as markdown.")
@click.option("--show-drafts", is_flag=True, help="Show accepted draft tokens in another color.")
@thinking_options
@template_options
@shared_options
def chat(system: str | None, plain: bool, show_drafts: bool, **options: Any) -> None:
    """Chat in the terminal; /help lists what you can type. Without a terminal, each line is a message.

    \b
    pass-edge chat --show-drafts
    pass-edge chat --model model.gguf --system "Be brief." --temp 0
    """
    sampling = sampling_from(options)
    options["model"] = offered_model(options["model"])
    with open_engine(options) as engine:
        limits = {"sampling": sampling, "max_tokens": options["max_tokens"], "stop": options["stop"]}
        chat = InteractiveChat(engine, Conversation(system), limits, plain=plain, shows_drafts=show_drafts)
        if sys.stdin.isatty():
            quiet(f"{engine.model.metadata('general.name') or engine.model.path.name}: /help, /quit")
        if show_drafts and sys.stdout.isatty():
            click.secho("accepted draft tokens have this color", fg=DRAFTED, err=True)
        with silent_keyboard():
            for line in typed_messages() if sys.stdin.isatty() else piped_messages():
                if not chat.handle(line):
                    break


class InteractiveChat:
    """Handles the lines that a user types: messages, and commands such as /reset."""

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        limits: dict[str, Any],
        *,
        plain: bool = False,
        shows_drafts: bool = False,
    ) -> None:
        """``limits``: the options of ``Engine.chat``."""
        self.engine = engine
        self.conversation = conversation
        self.limits = limits
        self.plain = plain or not sys.stdout.isatty() or not has_styles()
        self.shows_drafts = shows_drafts
        self.last_stats: Stats | None = None
        self.commands = {
            "/help": lambda _: click.echo(CHAT_HELP),
            "/reset": self.reset,
            "/system": self.set_system,
            "/think": self.set_thinking,
            "/stats": self.show_stats,
            "/save": self.save,
            "/load": self.load,
        }

    def handle(self, line: str) -> bool:
        """Handle ``line``: print its effect, or its error. Return false if it ends the chat."""
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return False
        try:
            if is_command(line):
                self.run_command(command, rest.strip())
            elif command:
                self.answer(line)
        except PassEdgeError as error:
            click.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            self.engine.session.forget()  # a step may have been cut in the middle
            quiet("stopped")
        return True

    def run_command(self, command: str, rest: str) -> None:
        if command not in self.commands:
            raise SettingsError(f"there is no {command}; /help lists the commands")
        self.commands[command](rest)

    def reset(self, _: str) -> None:
        self.conversation.turns.clear()
        self.engine.session.forget()
        quiet("the conversation is forgotten")

    def set_system(self, text: str) -> None:
        self.conversation = Conversation(text or None)
        self.engine.session.forget()
        quiet("a new conversation begins")

    def set_thinking(self, rest: str) -> None:
        if rest not in ("on", "off"):
            raise SettingsError("/think is followed by on or off")
        if not thinking_of(self.engine.model.chat_template() or ""):
            raise SettingsError("this model does not think: its chat template has no tags for it")
        self.limits["template_arguments"] = {"enable_thinking": rest == "on"}
        quiet(f"thinking is {rest}")

    def show_stats(self, _: str) -> None:
        quiet(statistics(self.last_stats) if self.last_stats else "there is no answer yet")

    def save(self, rest: str) -> None:
        words = rest.split(" ")
        path = file_path(" ".join(word for word in words if word != "--kv"), "/save")
        self.engine.session.save(
            path,
            messages=self.conversation.messages,
            sampling=self.limits["sampling"],
            kv="--kv" in words,
        )
        quiet(f"saved to {path}, {os.path.getsize(path):,} bytes")

    def load(self, rest: str) -> None:
        saved = self.engine.session.load(file_path(rest, "/load"))
        self.conversation = Conversation.of(saved.messages)
        self.limits["sampling"] = saved.sampling or self.limits["sampling"]
        how = "with their KV cache" if saved.cache else "processed again"
        quiet(f"{len(saved.messages)} messages loaded, {len(saved.tokens)} tokens {how}")

    def answer(self, question: str) -> None:
        self.conversation.ask(question)
        try:
            generation = self.engine.chat(self.conversation.messages, **self.limits)
            show(generation, self.display())
        except (PassEdgeError, KeyboardInterrupt) as error:
            self.conversation.withdraw()
            if isinstance(error, ContextFullError):
                raise ContextFullError(f"{error}. /reset starts a new conversation") from error
            raise
        thought, answer = split_thinking(generation.thinking, generation.text)
        self.conversation.answer(answer, thought)
        self.last_stats = generation.stats
        if generation.finish_reason == "context":
            quiet(
                f"the context of {self.engine.context_size} tokens is full; /reset starts a new conversation"
            )
        quiet(summary(generation.stats))

    def display(self) -> Display:
        """Return the display of the next answer: markdown in a terminal, else plain text."""
        if self.plain:
            return PlainText(shows_drafts=self.shows_drafts)
        from pass_edge.commands.terminal.markdown import Markdown

        # COLUMNS, if another program has set it, would hide every resize
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        return Markdown(console(_environ=environment), shows_drafts=self.shows_drafts)


def is_command(line: str) -> bool:
    """Whether ``line`` is a command, and not a message that starts with a slash (a path, pasted code)."""
    return bool(re.fullmatch(r"/\w+( [^\n]*)?", line.strip()))


def file_path(name: str, command: str) -> str:
    """Return ``name`` as a path. Raises SettingsError if ``command`` was given none."""
    name = name.strip()
    if not name or "\0" in name:
        raise SettingsError(f"{command} needs the name of a file, as in {command} my.session")
    return os.path.expanduser(name)


def statistics(stats: Stats) -> str:
    """Return the figures of an answer, one a line."""
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
