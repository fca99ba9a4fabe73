"""pass-edge models: the models on this disk, and downloads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pass_edge import ModelError, SettingsError
from pass_edge.commands.terminal.output import console, size_text
from pass_edge.commands.terminal.standard_input import confirm_removal
from pass_edge.models.description import Description, describe
from pass_edge.models.fetched import is_fetched, remove
from pass_edge.models.find import download
from pass_edge.models.local_stores import StoredModel, find_stored, stored_models
from pass_edge.models.names import HubName, parse_name

from .model_files import downloads

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("name", "family", "size", "quantization", "lookahead", "store", "path")


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models on this disk; download and remove them.

    The list has the default model, those in the folders that the environment variable PASS_EDGE_MODELS names,
    and those that huggingface-hub, llama.cpp, LM Studio and Ollama downloaded. NAME is what -m takes, in any
    command. In a pipe, the columns are separated by tabs, and sizes are in bytes.

    \b
    pass-edge models
    pass-edge models pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M
    pass-edge models rm Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M
    """
    if context.invoked_subcommand:
        if as_json:
            raise click.UsageError("--json is for the list, which has no further word")
        return
    found = [describe(model) for model in stored_models()]
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    elif sys.stdout.isatty():
        console().print(_table(found))
    else:
        click.echo("\t".join(_COLUMNS))
        for each in found:
            click.echo("\t".join(str(getattr(each, column)) for column in _COLUMNS))


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Download the model NAME from Hugging Face's hub: USER/REPO, USER/REPO:QUANT, or an address.

    Without QUANT it is Q4_K_M, else Q8_0, else the first file. The model goes to the hub's cache
    (~/.cache/huggingface/hub, or where HF_HOME says), where other programs find it, and with it a lookahead
    file, if the repository has one. The same command continues an interrupted download.

    \b
    pass-edge models pull Qwen/Qwen2.5-0.5B-Instruct-GGUF
    pass-edge models pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0

    HF_TOKEN is the token for private repositories; HF_ENDPOINT names a mirror.
    """
    wanted = parse_name(name)
    if not isinstance(wanted, HubName):
        raise SettingsError(f"{name} is no name on the hub, which has the form USER/REPO or USER/REPO:QUANT")
    with downloads() as progress:
        path = download(wanted, progress)
    click.echo(path)


@models.command()
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(name: str, yes: bool) -> None:
    """Remove the model NAME, if pass-edge downloaded it.

    What other programs downloaded is left to them.

    \b
    pass-edge models rm Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M
    """
    model = _stored(name)
    if is_fetched(model) and not yes:
        confirm_removal(model.name, f", {size_text(model.size)}")
    click.echo(f"{model.name} is removed, {size_text(remove(model))}")


def _stored(name: str) -> StoredModel:
    """Return the model called ``name``. Raises ModelError if it is not on this disk."""
    wanted = parse_name(name)
    named = [model for model in stored_models() if model.name == name]
    found = named[0] if named else find_stored(wanted) if isinstance(wanted, HubName) else None
    if not found:
        raise ModelError(f"there is no model {name} on this disk; `pass-edge models` lists those that are")
    return found


def _table(found: Sequence[Description]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("name, and where it is", overflow="fold")
    for column in ("family", "size", "type", "lookahead"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for each in found:
        place = each.path.replace(os.path.expanduser("~"), "~", 1)
        name = Text.assemble((each.name, "bold"), (f"\n{each.store}: {place}", "dim"))
        drafts = each.problem or ("yes" if each.lookahead else "-")
        cells = (each.family, size_text(each.size), each.quantization, drafts)
        table.add_row(name, *map(Text, cells))  # as text: names may hold rich's marks
    return table
