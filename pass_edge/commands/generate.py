"""pass-edge generate: answer one prompt."""

from __future__ import annotations

import json
import os.path
from typing import Any

import click

from pass_edge import Engine, Generation
from pass_edge.commands.terminal.answer import PlainText, show, summary
from pass_edge.commands.terminal.output import quiet
from pass_edge.commands.terminal.standard_input import read_prompt, text

from .conversation import Conversation
from .engine_options import open_engine, sampling_from, shared_options, template_options


@click.command()
@click.argument("prompt", required=False, type=text)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--system", type=text, help='A system message, such as "Be brief."')
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@template_options
@shared_options
def generate(prompt: str | None, raw: bool, system: str | None, as_json: bool, **options: Any) -> None:
    """Answer PROMPT once.

    Text that is piped in comes before PROMPT, with an empty line between them, and without its last newline.
    Without PROMPT, it is the prompt.

    \b
    pass-edge generate "Name three rivers." --temp 0
    cat notes.txt | pass-edge generate "Sum up these notes."
    cat notes.txt | pass-edge generate --raw -n 50 --json
    """
    sampling = sampling_from(options)
    prompt = read_prompt(prompt)
    if not (raw or prompt.strip()):
        raise click.UsageError("the prompt is empty; give a PROMPT, or text on standard input")
    if prompt.endswith(".gguf") and os.path.isfile(prompt):
        raise click.UsageError(f"{prompt} is a model, not a PROMPT; give it with --model")
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
            show(generation, PlainText())
            if generation.finish_reason == "context":
                quiet(f"the context of {engine.context_size} tokens is full; raise --ctx-size for more")
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
