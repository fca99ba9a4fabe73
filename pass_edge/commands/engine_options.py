"""The options that commands share, and what they make: an engine and its sampling."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pass_edge import Engine, Sampling, Settings, SettingsError
from pass_edge.commands.terminal.output import quiet
from pass_edge.commands.terminal.standard_input import text
from pass_edge.native.constraint import schema_grammar
from pass_edge.native.default_templates import KNOWN_TEMPLATES
from pass_edge.openai.requests import RANDOM_SEED, Parameters

from .model_files import file_of

Command = Callable[..., None]
Option = Callable[[Command], Command]


def layer_count(value: str) -> int | None:
    """Parse a number of layers; as in llama.cpp, "all" is -1 and "auto" is None."""
    words = {"auto": None, "all": -1}
    return words[value] if value in words else int(value)


def token_count(value: str) -> int | None:
    """Parse a largest number of tokens; as in llama.cpp, -1 is as many as the context holds."""
    count = int(value)
    if count < 1 and count != -1:
        raise click.BadParameter("it must be 1 or more, or -1 for as many as the context holds")
    return None if count == -1 else count


def parse_seed(value: str | int) -> int:
    """Parse a seed; as in llama.cpp, -1 draws one."""
    return secrets.randbits(63) if int(value) == RANDOM_SEED else int(value)


def _model_option(help: str, *, several: bool = False) -> Option:
    name = "models" if several else "model"
    return click.option(
        "--model", "-m", name, type=click.Path(), metavar="FILE|NAME", multiple=several, help=help
    )


_DEFAULT_MODEL = (
    "A GGUF file; USER/REPO[:QUANT] of Hugging Face's hub; ollama:NAME[:TAG]; or a name that `pass-edge "
    "models` lists. [default: SmolLM2-135M]"
)
_MODEL_OPTIONS: list[Option] = [_model_option(_DEFAULT_MODEL)]
_THINKING_OPTIONS: list[Option] = [
    click.option(
        "--think",
        type=click.Choice(["on", "off"]),
        callback=lambda _context, _option, value: None if value is None else value == "on",
        help="Whether a model that can think does so. [default: as its chat template has it]",
    ),
    click.option(
        "--thinking-budget",
        type=click.IntRange(0),
        metavar="N",
        help="Tokens of thinking after which the answer begins. [default: no limit]",
    ),
]
_TEMPLATE_OPTIONS: list[Option] = [
    click.option(
        "--chat-template",
        type=text,
        metavar="NAME|TEXT",
        help="The chat template, if not the model's own: "
        f"{', '.join(each.key for each in KNOWN_TEMPLATES)}, or text in Jinja.",
    ),
    click.option("--chat-template-file", type=click.Path(path_type=Path), help="A chat template in Jinja."),
]
_SCHEDULE_OPTIONS: list[Option] = [
    click.option(
        "--schedule",
        default=Settings.schedule,
        show_default=True,
        help="When to draft: auto (where it pays), plain (never), or head, two-pass, fused (at every step).",
    ),
    click.option(
        "--verify",
        default=Settings.verify,
        show_default=True,
        help="How to verify drafts: sampling (the same text as plain decoding) or rejection (the same "
        "distribution).",
    ),
    click.option("--draft-max", type=int, help="Most tokens to draft ahead. [default: as many as pay]"),
    click.option(
        "--draft-p-min",
        type=float,
        default=Settings.draft_p_min,
        show_default=True,
        help="Verify only drafts with at least this probability (not for auto).",
    ),
    click.option(
        "--ngrams/--no-ngrams",
        default=Settings.ngrams,
        show_default=True,
        help="Also draft what the conversation repeats.",
    ),
]
draft_model_option = click.option(
    "--draft-model",
    "-md",
    type=click.Path(),
    help="A small GGUF file with the model's tokenizer, from which auto drafts too where that pays.",
)
_MACHINE_OPTIONS: list[Option] = [
    click.option(
        "--lookahead",
        default="auto",
        show_default=True,
        help="A .pass.gguf file, auto (the one that fits the model), or none.",
    ),
    draft_model_option,
    click.option(
        "--mtp/--no-mtp",
        default=Settings.mtp,
        show_default=True,
        help="Also draft with the model's own MTP layers, if it has any.",
    ),
    click.option("--threads", "-t", type=int, help="CPU threads. [default: the fastest number, or all]"),
    click.option(
        "--gpu-layers",
        "-ngl",
        type=layer_count,
        metavar="N|all|auto",
        help="Layers to run on the GPU; auto takes as many as fit its free memory. [default: auto]",
    ),
    click.option(
        "--flash-attn",
        "-fa",
        type=click.Choice(["on", "off", "auto"]),
        default=Settings.flash_attn,
        show_default=True,
        help="Flash attention; auto uses it where the device can.",
    ),
    click.option(
        "--ctx-size",
        "-c",
        "context_size",
        type=click.IntRange(0),
        help="Tokens of context; 0 takes the model's own. [default: the model's own, up to 4096]",
    ),
    click.option("--cache-type-k", "-ctk", help="Type of the K cache, such as f16 or q8_0."),
    click.option("--cache-type-v", "-ctv", help="Type of the V cache, such as f16 or q8_0."),
]


def _number_options() -> list[Option]:
    """Make an option for each number in Sampling (--top-k for ``top_k``); Parameters describes them."""
    flags = {"temperature": ("--temp",), "seed": ("--seed", "-s")}
    descriptions = {each.name: each.metadata.get("description", "") for each in fields(Parameters)}
    options: list[Option] = []
    for each in fields(Sampling):
        if each.name in ("logit_bias", "grammar", "grammar_start"):
            continue
        is_random = each.default is None  # the seed
        option = click.option(
            *flags.get(each.name, (f"--{each.name.replace('_', '-')}",)),
            each.name,
            type=parse_seed if is_random else type(each.default),
            default=each.default,
            show_default=not is_random,
            metavar="INTEGER" if is_random else None,
            help=descriptions[each.name] + (" -1 draws one. [default: -1]" if is_random else ""),
        )
        options.append(option)
    return options


_SAMPLING_OPTIONS: list[Option] = [
    *_number_options(),
    click.option(
        "--logit-bias",
        multiple=True,
        metavar="ID(+/-)BIAS",
        help="Add BIAS to the logit of token ID, as in 15043+1; may be repeated.",
    ),
    click.option(
        "--grammar-file", type=click.Path(path_type=Path), help="A GBNF grammar that the text must match."
    ),
    click.option(
        "--json-schema-file",
        "-jf",
        type=click.Path(path_type=Path),
        help="A JSON schema that the text must match.",
    ),
    click.option(
        "--n-predict",
        "-n",
        "max_tokens",
        type=token_count,
        metavar="INTEGER",
        help="Most tokens to generate; -1 is as many as the context holds. [default: -1]",
    ),
    click.option("--stop", type=text, multiple=True, help="Stop before this string; may be repeated."),
]


def shared_options(command: Command) -> Command:
    """Add the options of the model, the schedule, the machine and the sampling."""
    return _add(command, _MODEL_OPTIONS + _SCHEDULE_OPTIONS + _MACHINE_OPTIONS + _SAMPLING_OPTIONS)


def serving_options(command: Command) -> Command:
    """Add the options of one or several models, the schedule and the machine."""
    models = _model_option("A GGUF file; may be repeated. [default: SmolLM2-135M]", several=True)
    return _add(command, [models, *_SCHEDULE_OPTIONS, *_MACHINE_OPTIONS])


def template_options(command: Command) -> Command:
    """Add the options of the chat template."""
    return _add(command, _TEMPLATE_OPTIONS)


def thinking_options(command: Command) -> Command:
    """Add the options of thinking, which chats have."""
    return _add(command, _THINKING_OPTIONS)


def machine_options(command: Command) -> Command:
    """Add the options of the machine, which are the same for all schedules."""
    return _add(command, _MACHINE_OPTIONS)


def model_argument(command: Command, *, required: bool = False) -> Command:
    """Add the model, as an argument or as the option that other commands have."""

    @wraps(command)
    def with_model(positional: str | None, model: str | None, **options: Any) -> None:
        if (positional and model) or (required and not (positional or model)):
            raise click.UsageError("give one model, as MODEL or with --model")
        command(model=positional or model, **options)

    option = _model_option("The same as MODEL." if required else _DEFAULT_MODEL)
    metavar = "MODEL" if required else "[MODEL]"
    argument = click.argument("positional", metavar=metavar, required=False, type=click.Path())
    return argument(option(with_model))


def _add(command: Command, options: Sequence[Option]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def open_engine(options: dict[str, Any]) -> Engine:
    """Open the engine of a command's ``options``, and print its notes."""
    settings = settings_from(options)  # before a download, so that what is wrong is told at once
    model = file_of(options["model"])
    if settings.draft_model is not None:
        settings = replace(settings, draft_model=file_of(str(settings.draft_model)).path)
    engine = Engine(
        model,
        lookahead=None if options["lookahead"] == "none" else options["lookahead"],
        settings=settings,
        note=lambda text: quiet(f"{text} …"),
    )
    for note in engine.notes:
        quiet(note)
    return engine


def settings_from(options: dict[str, Any]) -> Settings:
    """Return the settings of a command's ``options``. Raises SettingsError."""
    names = {each.name for each in fields(Settings)} & set(options)
    return Settings(**{name: options[name] for name in names} | _chat_template(options))


def _chat_template(options: dict[str, Any]) -> dict[str, str]:
    """Return the chat template of a command's ``options`` as a setting, if there is one."""
    file = options.get("chat_template_file")
    if file is None:
        return {}
    if options["chat_template"] is not None:
        raise SettingsError("--chat-template and --chat-template-file exclude each other; give one")
    return {"chat_template": _text_of(file)}


def sampling_from(options: dict[str, Any]) -> Sampling:
    """Return the sampling of a command's ``options``."""
    names = {each.name for each in fields(Sampling)} & set(options)
    parameters = {name: options[name] for name in names} | {
        "logit_bias": dict(map(_bias, options["logit_bias"])),
        "grammar": _grammar(options["grammar_file"], options["json_schema_file"]),
    }
    return Sampling(**parameters)


def _grammar(grammar_file: Path | None, schema_file: Path | None) -> str:
    if grammar_file and schema_file:
        raise SettingsError("--grammar-file and --json-schema-file exclude each other; give one")
    file = grammar_file or schema_file
    if file is None:
        return ""
    text = _text_of(file)
    try:
        return schema_grammar(json.loads(text)) if schema_file else text
    except ValueError as error:
        raise SettingsError(f"{file} is not a JSON schema: {error}") from error


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{file} is not UTF-8 text: {error}") from error


def _bias(text: str) -> tuple[int, float]:
    for sign in "+-":
        token, found, value = text.partition(sign)
        try:
            if found:
                return int(token), float(sign + value)
        except ValueError:
            break
    raise SettingsError(f"logit bias {text!r} is not of the form ID+BIAS or ID-BIAS, as in 15043+1.5")
