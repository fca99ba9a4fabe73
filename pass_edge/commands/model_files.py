"""From what a user typed for a model to its file, with a bar while it is downloaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pass_edge.commands.terminal.output import INTERRUPTED, byte_progress, quiet
from pass_edge.models import ModelFile, default_model, find_model

if TYPE_CHECKING:
    from pass_edge.models.hub import Progress


def file_of(model: str | ModelFile | None) -> ModelFile:
    """Return the file of ``model``, which is downloaded if need be; None is the default model. Raises as
    ``find_model``; ends the process if Ctrl-C stops the download."""
    with downloads() as progress:
        return find_model(default_model() if model is None else model, progress=progress, note=quiet)


@contextmanager
def downloads() -> Iterator[Progress]:
    """Yield what shows the progress of downloads. Ctrl-C ends the process, and keeps what has arrived."""
    try:
        with byte_progress() as progress:
            yield progress
    except KeyboardInterrupt:
        click.echo("Interrupted; what has arrived is kept, and the same command continues it.", err=True)
        sys.exit(INTERRUPTED)
