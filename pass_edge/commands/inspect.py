"""pass-edge inspect: what GGUF files hold, and which of them fit together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from .model_files import file_of


@click.command()
@click.argument("files", metavar="FILE|NAME...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: the files, and which pairs fit."
)
def inspect(files: tuple[str, ...], as_json: bool) -> None:
    """Describe GGUF files, and say which of them fit together.

    Models are given as for -m, by file or by name. For each pair of a model and a lookahead, it says whether
    they fit, and why not.

    \b
    pass-edge inspect model.gguf model.pass.gguf
    pass-edge inspect ollama:qwen2.5:0.5b
    """
    from pass_edge.convert.inspection import inspect as inspect_files

    report = inspect_files([file_of(each).path for each in files])
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for file in report["files"]:
        click.echo(file["file"])
        for key, value in _flatten(file):
            click.echo(f"  {key + ':':<26} {value}")
    for pair in report["pairs"]:
        click.echo(f"{pair['lookahead']} {'fits' if pair['fits'] else 'does not fit'} {pair['model']}")
        for reason in pair["why"]:
            click.echo(f"  {reason}")


def _flatten(report: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the names and values of a nested report."""
    for key, value in report.items():
        if isinstance(value, dict):
            yield from ((f"{key} {name}", inner) for name, inner in _flatten(value))
        elif key != "file":
            yield key.replace("_", " "), "none" if value in (None, "", []) else value
