"""The options that chat, generate and bench share, and what they make: an engine and how it samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pass_edge.commands.terminal.output import quiet

if TYPE_CHECKING:
    from pass_edge import Engine, Sampling

Command = Callable[..., None]


def layer_count(value: str) -> int | None:
    """llama.cpp's ways to say it: a number, "all", which is -1, or "auto", which is None."""
    words = {"auto": None, "all": -1}
    return words[value] if value in words else int(value)


_MODEL_OPTIONS = [
    click.option(
        "--model", "-m", type=click.Path(path_type=Path), help="A GGUF file. [default: SmolLM2-135M]"
    ),
]
_SCHEDULE_OPTIONS = [
    click.option(
        "--schedule",
        help="auto drafts where it pays, plain never, head, two-pass and fused at every step. "
        "[default: auto]",
    ),
    click.option("--verify", help="sampling (same text as plain) or rejection. [default: sampling]"),
    click.option("--draft-max", type=int, help="Most tokens drafted ahead. [default: as many as pay]"),
    click.option(
        "--draft-p-min", type=float, help="Verify no draft less sure of itself than this. [default: 0]"
    ),
    click.option(
        "--ngrams/--no-ngrams", default=None, help="Draft from the conversation too. [default: yes]"
    ),
]
_MACHINE_OPTIONS = [
    click.option("--lookahead", default="auto", show_default=True, help="A .pass.gguf file, auto, or none."),
    click.option(
        "--threads",
        "-t",
        type=int,
        help="CPU threads. [default: what is fastest, or all]",
    ),
    click.option(
        "--gpu-layers",
        "-ngl",
        type=layer_count,
        help="Layers on the GPU: a number, all, or auto, as many as fit its free memory. [default: auto]",
    ),
    click.option(
        "--flash-attn", "-fa", type=click.Choice(["on", "off", "auto"]), help="[default: auto, where it can]"
    ),
    click.option(
        "--ctx-size",
        "-c",
        "context_size",
        type=click.IntRange(0),
        help="Tokens of context; 0 is the model's.",
    ),
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
    click.option("--grammar-file", type=click.Path(path_type=Path), help="GBNF that the text must match."),
    click.option(
        "--json-schema-file",
        "-jf",
        type=click.Path(path_type=Path),
        help="A JSON schema that the text must match.",
    ),
    click.option("--seed", "-s", type=int, help="The same seed gives the same text. [default: random]"),
    click.option("--n-predict", "-n", "max_tokens", type=click.IntRange(1), help="Most tokens to generate."),
    click.option("--stop", multiple=True, help="Stop at this string; may be repeated."),
]


def shared_options(command: Command) -> Command:
    """All of them."""
    return _with(command, _MODEL_OPTIONS + _SCHEDULE_OPTIONS + _MACHINE_OPTIONS + _SAMPLING_OPTIONS)


def engine_options(command: Command) -> Command:
    """All but those of sampling, for what is asked anew each time."""
    return _with(command, _MODEL_OPTIONS + _SCHEDULE_OPTIONS + _MACHINE_OPTIONS)


def machine_options(command: Command) -> Command:
    """What a model runs with, whatever the schedule."""
    return _with(command, _MACHINE_OPTIONS)


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options.get(name) is not None}


def open_engine(options: dict[str, Any]) -> Engine:
    from pass_edge import Engine, Settings
    from pass_edge.models import default_model

    names = (
        "schedule",
        "verify",
        "draft_max",
        "draft_p_min",
        "ngrams",
        "threads",
        "gpu_layers",
        "flash_attn",
        "context_size",
        "parallel",
    )
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
    bias = dict(map(_bias, options["logit_bias"]))
    return Sampling(**given, logit_bias=bias, grammar=_grammar(options))


def _grammar(options: dict[str, Any]) -> str:
    from pass_edge import SettingsError
    from pass_edge.native.constraint import schema_grammar

    grammar, schema = options["grammar_file"], options["json_schema_file"]
    if grammar and schema:
        raise SettingsError("--grammar-file and --json-schema-file exclude each other")
    try:
        if schema:
            return schema_grammar(json.loads(schema.read_text(encoding="utf-8")))
        return grammar.read_text(encoding="utf-8") if grammar else ""
    except OSError as error:
        raise SettingsError(f"{schema or grammar} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{schema or grammar} is not what it should be: {error}") from error


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
