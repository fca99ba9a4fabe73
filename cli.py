"""The command line: parse, call, print. What it calls lives in pass_edge and convert, imported late, so
that --help is instant."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pass_edge import Engine, Generation, Sampling, Stats
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


class Commands(click.Group):
    """Turns errors raised on purpose into one sentence and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from pass_edge.native.errors import PassEdgeError

        try:
            return super().invoke(ctx)
        except PassEdgeError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pass-edge")
def main() -> None:
    """Decode a GGUF model faster without changing its text (Parallel Speculative Sampling).

    \b
    pass-edge chat                              chat with the default model
    pass-edge generate "Why is the sky blue?"   answer once
    pass-edge doctor                            what this machine can do, and what is wrong
    """


# -- options that chat and generate share -------------------------------------------------------------

_ENGINE_OPTIONS = [
    click.option(
        "--model", "-m", type=click.Path(path_type=Path), help="A GGUF file. [default: SmolLM2-135M]"
    ),
    click.option("--lookahead", default="auto", show_default=True, help="A .pass.gguf file, auto, or none."),
    click.option("--schedule", help="plain, two-pass or fused. [default: fused]"),
    click.option("--verify", help="sampling (same text as plain) or rejection. [default: sampling]"),
    click.option("--draft-max", type=int, help="Tokens drafted ahead. [default: 1]"),
    click.option("--threads", "-t", type=int, help="CPU threads. [default: all cores]"),
    click.option("--gpu-layers", "-ngl", type=int, help="Layers on the GPU; -1 is all. [default: -1]"),
    click.option("--ctx-size", "-c", "context_size", type=int, help="Tokens of context; 0 is the model's."),
    click.option("--cache-type-k", "-ctk", help="KV cache type for K (f16, q8_0 …)."),
    click.option("--cache-type-v", "-ctv", help="KV cache type for V."),
]
_SAMPLING_OPTIONS = [
    click.option("--temp", "temperature", type=float, help="Temperature; 0 is greedy. [default: 0.8]"),
    click.option("--top-k", type=int, help="[default: 40; 0 is off]"),
    click.option("--top-p", type=float, help="[default: 0.95; 1 is off]"),
    click.option("--min-p", type=float, help="[default: 0.05; 0 is off]"),
    click.option("--repeat-penalty", type=float, help="[default: 1, off]"),
    click.option("--repeat-last-n", type=int, help="Tokens the penalties look back on. [default: 64]"),
    click.option("--presence-penalty", type=float, help="[default: 0]"),
    click.option("--frequency-penalty", type=float, help="[default: 0]"),
    click.option(
        "--logit-bias", multiple=True, metavar="ID(+/-)BIAS", help="As in 15043+1; may be repeated."
    ),
    click.option("--seed", "-s", type=int, help="The same seed gives the same text. [default: random]"),
    click.option("--n-predict", "-n", "max_tokens", type=int, help="Most tokens to generate."),
    click.option("--stop", multiple=True, help="Stop at this string; may be repeated."),
]


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_ENGINE_OPTIONS + _SAMPLING_OPTIONS):
        command = option(command)
    return command


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def open_engine(options: dict[str, Any]) -> Engine:
    from pass_edge import Engine, Settings
    from pass_edge.models import default_model

    names = ("schedule", "verify", "draft_max", "threads", "gpu_layers", "context_size")
    settings = Settings(**_given(options, *names, "cache_type_k", "cache_type_v"))
    wanted = options["lookahead"]
    engine = Engine(
        options["model"] or default_model(),
        lookahead=None if wanted == "none" else wanted,
        settings=settings,
        note=lambda text: quiet(f"{text} …"),
    )
    for note in engine.notes:
        quiet(note)
    return engine


def sampling_from(options: dict[str, Any]) -> Sampling:
    from pass_edge import Sampling

    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n")
    given = _given(options, *names, "presence_penalty", "frequency_penalty", "seed")
    return Sampling(**given, logit_bias=dict(map(_bias, options["logit_bias"])))


def _bias(text: str) -> tuple[int, float]:
    from pass_edge import SettingsError

    for sign in "+-":
        token, found, value = text.partition(sign)
        try:
            if found:
                return int(token), float(sign + value)
        except ValueError:
            break
    raise SettingsError(f"logit bias {text!r} is not of the form ID+BIAS or ID-BIAS, as in 15043+1.5")


def quiet(text: str) -> None:
    """A dim line on standard error."""
    click.secho(text, dim=True, err=True)


def summary(stats: Stats) -> str:
    """One line about an answer."""
    parts = [f"{stats.tokens_per_second:.1f} tokens/s", f"{stats.tokens_per_pass:.2f} tokens/pass"]
    if stats.acceptance:
        parts.append("accepted " + " ".join(f"{share:.2f}" for share in stats.acceptance))
    return " · ".join([*parts, f"{stats.tokens} tokens"])


@contextmanager
def interruptible() -> Iterator[list[bool]]:
    """Ctrl-C sets the flag instead of raising, so that it can't cut a step in two."""
    flag: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: flag.append(True))
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def show(generation: Generation) -> None:
    """Print an answer as it comes; Ctrl-C ends it early."""
    with interruptible() as stopped:
        for piece in generation:
            click.echo(piece, nl=False)
            sys.stdout.flush()
            if stopped:
                break
    click.echo()


# -- generate -----------------------------------------------------------------------------------------


@main.command()
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--system", help="A system message.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@shared_options
def generate(prompt: str | None, raw: bool, system: str | None, as_json: bool, **options: Any) -> None:
    """Answer PROMPT once (or standard input).

    \b
    pass-edge generate "Name three rivers." --temp 0
    cat notes.txt | pass-edge generate --raw -n 50 --json
    """
    from pass_edge.chat import Conversation

    sampling = sampling_from(options)
    prompt = read_stdin() if prompt is None else prompt
    limits = {"sampling": sampling, "max_tokens": options["max_tokens"], "stop": options["stop"]}
    with open_engine(options) as engine:
        if raw:
            generation = engine.stream(prompt, **limits)
        else:
            conversation = Conversation(system)
            conversation.ask(prompt)
            generation = engine.chat(conversation.messages, **limits)
        if as_json:
            click.echo(json.dumps(_report(generation.run(), engine)))
        else:
            show(generation)
            quiet(summary(generation.stats))


def _report(generation: Generation, engine: Engine) -> dict[str, Any]:
    stats = generation.stats
    return {
        "ids": generation.ids,
        "text": generation.text,
        "prompt_tokens": stats.prompt_tokens,
        "passes": stats.passes,
        "tokens_per_second": stats.tokens_per_second,
        "tokens_per_pass": stats.tokens_per_pass,
        "acceptance": stats.acceptance,
        "finish_reason": generation.finish_reason,
        "schedule": engine.schedule,
        "seed": generation.seed,
    }


def read_stdin() -> str:
    """All of standard input; raises SettingsError if it is not UTF-8."""
    return _decoded(sys.stdin.buffer.read())


def _decoded(raw: bytes) -> str:
    from pass_edge import SettingsError

    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"standard input is not valid UTF-8 (byte {error.start})") from error


# -- chat ---------------------------------------------------------------------------------------------


@main.command()
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


def piped_messages() -> Iterator[str]:
    """Messages from a pipe, one a line."""
    return (_decoded(line).rstrip("\n") for line in sys.stdin.buffer)


# -- doctor, convert, merge, quantize and inspect -----------------------------------------------------


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Look at the library, the machine and the default model, and say what to do about what is wrong."""
    report = examine()
    if as_json:
        click.echo(json.dumps(report))
        return
    for part in ("library", "machine", "default_model"):
        click.secho(part.replace("_", " "), bold=True)
        for key, value in report[part].items():
            click.echo(f"  {key.replace('_', ' '):20} {value}")
    for advice in report["advice"] or ["nothing is wrong"]:
        click.echo(f"- {advice}")


def examine() -> dict[str, Any]:
    """What doctor knows, as plain data."""
    from pass_edge.calibration import library_verdict
    from pass_edge.native import build, devices
    from pass_edge.native.library import library_path, system_info
    from pass_edge.native.probe import BROKEN, WORKS

    plan, verdict = build.plan(), library_verdict(quiet)
    advice = [] if verdict == WORKS else ["rebuild llama.cpp here: make clean setup"]
    report: dict[str, Any] = {
        "library": {"path": str(library_path()), "verdict": verdict, "features": system_info()},
        "machine": {
            "devices": [f"{d.name}: {d.description}" for d in devices.devices()],
            "threads": devices.default_threads(),
            "best_backend": plan.backend,
            "amx": plan.amx,
        },
        "default_model": {"path": None},
        "advice": advice,
    }
    if verdict != BROKEN:
        _examine_default_model(report)
    return report


def _examine_default_model(report: dict[str, Any]) -> None:
    from pass_edge import Engine, ModelError
    from pass_edge.models import default_model

    try:
        path = default_model()
    except ModelError as error:
        report["advice"].append(str(error))
        return
    with Engine(path, note=quiet) as engine:
        width = engine.calibration.width
        report["default_model"] = {
            "path": str(path),
            "description": engine.model.description,
            "lookahead": f"{len(engine.lookahead)} tokens" if engine.lookahead else None,
            "batch_invariance": f"up to {width} tokens a pass get the bits they would get alone"
            if width > 1
            else f"none: batch sizes differ by up to {engine.calibration.difference:.2f} logits",
            "repacked_weights": engine.calibration.repack,
        }
        report["advice"] += engine.notes


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--model", "-m", required=True, type=click.Path(path_type=Path), help="The base GGUF.")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path), help="The .pass.gguf to write."
)
@click.option("--tensor", help="The tensor that holds the embeddings, where that is not clear.")
@click.option("--rows", metavar="FIRST:COUNT", help="Its rows that are lookahead, counted from 0.")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
@click.option("--training", default="", help="How it was trained, for people.")
def convert(checkpoint: Path, model: Path, output: Path, rows: str | None, force: bool, **named: Any) -> None:
    """Write the lookahead embeddings in CHECKPOINT as a sidecar for a model.

    CHECKPOINT is a safetensors or torch file that holds them (L rows as wide as the model's embeddings), a
    Hugging Face model directory whose vocabulary they were added to, or a parallel-prompt-decoding adapter.
    Of an embedding matrix, the rows behind the model's vocabulary are taken, as far as the directory's
    tokenizer has tokens for them; --rows names others, such as tokens that took the place of padding.

    \b
    pass-edge convert trained.safetensors --model model.gguf -o model.pass.gguf
    pass-edge convert finetuned/ --rows 151665:4 --model model.gguf -o model.pass.gguf
    """
    from pass_edge.convert.checkpoint import convert as convert_checkpoint

    wanted = _row_range(rows) if rows else None
    lookahead = convert_checkpoint(checkpoint, model, output, rows=wanted, overwrite=force, **named)
    click.echo(f"{output}: {len(lookahead)} lookahead tokens for {lookahead.base.name}")


def _row_range(text: str) -> range:
    from pass_edge import SettingsError

    if not (found := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)):
        raise SettingsError(f"rows {text!r} are not of the form FIRST:COUNT, as in 32000:4")
    first, count = map(int, found.groups())
    return range(first, first + count)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("lookahead", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="The GGUF to write.")
@click.option("--embedding-type", metavar="TYPE", help="Store the embedding matrix as f16, q8_0 …")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
def merge(model: Path, lookahead: Path, output: Path, embedding_type: str | None, force: bool) -> None:
    """Write MODEL and its LOOKAHEAD into one GGUF, to ship in an app.

    Other llama.cpp programs run it as the plain model it was. It grows by a copy of the embedding matrix
    if the model has no output head of its own; a sidecar beside the model costs nothing of the kind.

    \b
    pass-edge merge model.gguf model.pass.gguf -o merged.gguf
    """
    from pass_edge.convert.merge import merge as merge_files

    with tensor_progress("merging") as progress:
        warnings = merge_files(
            model, lookahead, output, embedding_type=embedding_type, overwrite=force, progress=progress
        )
    for warning in warnings:
        quiet(warning)
    click.echo(f"{output}: {output.stat().st_size / 2**20:.0f} MiB, was {model.stat().st_size / 2**20:.0f}")


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("file_type", metavar="TYPE")
@click.option("--threads", "-t", type=click.IntRange(1, 512), help="CPU threads. [default: all]")
@click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
def quantize(source: Path, output: Path, file_type: str, threads: int | None, force: bool) -> None:
    """Write a model in another TYPE: Q4_0, Q8_0, Q4_K_M … (llama.cpp's quantizer).

    Drafting gains most in types with a kernel for several tokens, such as Q4_0, and little in Q4_1.

    \b
    pass-edge quantize model.Q4_1.gguf model.Q4_0.gguf Q4_0
    """
    from pass_edge.native.model import check_is_gguf, check_loads
    from pass_edge.native.output import check_free, unfinished_path
    from pass_edge.native.quantize import quantize as quantize_model

    check_free(output, force)
    check_loads(check_is_gguf(source))
    with tensor_progress("quantizing") as progress:
        run_beside(
            lambda: quantize_model(source, output, file_type, threads=threads or 0, progress=progress),
            unfinished_path(output),
        )
    click.echo(f"{output}: {output.stat().st_size / 2**20:.0f} MiB, was {source.stat().st_size / 2**20:.0f}")


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object: files, and pairs that fit or not.")
def inspect(files: tuple[Path, ...], as_json: bool) -> None:
    """Tell what GGUF FILES are, and which lookahead among them fits which model.

    \b
    pass-edge inspect model.gguf model.pass.gguf
    """
    from pass_edge.convert.inspection import inspect as inspect_files

    report = inspect_files(files)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for file in report["files"]:
        click.echo(file["file"])
        for key, value in _flat(file):
            click.echo(f"  {key + ':':<26} {value}")
    for pair in report["pairs"]:
        click.echo(f"{pair['lookahead']} {'fits' if pair['fits'] else 'does not fit'} {pair['model']}")
        for reason in pair["why"]:
            click.echo(f"  {reason}")


def _flat(report: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in report.items():
        if isinstance(value, dict):
            yield from ((f"{key} {inner}", deeper) for inner, deeper in _flat(value))
        elif key != "file":
            yield key.replace("_", " "), "none" if value in (None, "", []) else value


@contextmanager
def tensor_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, and what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tensors"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run_beside(work: Callable[[], None], unfinished: Path) -> None:
    """Do ``work`` in a thread, because Ctrl-C cannot reach into a native call: then the process ends
    and ``unfinished`` is removed."""
    from concurrent.futures import ThreadPoolExecutor
    from concurrent.futures import wait as wait_for

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            while not wait_for([future], timeout=0.2).done:
                pass
        except KeyboardInterrupt:
            unfinished.unlink(missing_ok=True)
            click.echo("\nInterrupted; nothing was written.", err=True)
            os._exit(130)
    future.result()


if __name__ == "__main__":
    main()
