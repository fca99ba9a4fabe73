"""An answer as it streams to a terminal or a pipe, and the figures about it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

import click

from pass_edge import Generation, Stats
from pass_edge.generation import Piece
from pass_edge.thinking import ThinkingParser

from .output import flag_interrupts, quiet

DRAFTED = "cyan"
"""The color of drafted text."""
_DEPTHS_SHOWN = 4
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code != ord("\n")
}


def summary(stats: Stats) -> str:
    """Return one line of figures about an answer."""
    parts = [f"{stats.tokens_per_second:.1f} tokens/s", f"{stats.tokens_per_pass:.2f} tokens/pass"]
    if stats.acceptance:
        deeper = " …" if len(stats.acceptance) > _DEPTHS_SHOWN else ""
        shares = " ".join(f"{share:.2f}" for share in stats.acceptance[:_DEPTHS_SHOWN])
        parts.append(f"accepted {shares}{deeper}")
    return " · ".join([*parts, f"{stats.tokens} tokens"])


class Display(Protocol):
    """Shows an answer while it is generated."""

    def feed(self, text: str, drafted: bool) -> None:
        """Add text; ``drafted``: whether it was drafted and accepted."""

    def finish(self) -> None:
        """End the answer."""


class PlainText:
    """A display of one answer as plain text; with ``shows_drafts``, drafted text has another color."""

    def __init__(self, *, shows_drafts: bool = False) -> None:
        self._draft_color = DRAFTED if shows_drafts else None

    def feed(self, text: str, drafted: bool) -> None:
        if drafted and self._draft_color:
            click.secho(text, nl=False, fg=self._draft_color)
        else:
            sys.stdout.write(text)  # as it is, which click would not leave it in a pipe
        sys.stdout.flush()

    def finish(self) -> None:
        click.echo()


def show(generation: Generation, display: Display) -> None:
    """Generate, and show the text on ``display`` meanwhile. Ctrl-C ends the answer early.

    Before the first text, Ctrl-C raises KeyboardInterrupt, because a long prompt takes long to process.
    """
    pieces = generation.pieces()
    first = next(pieces, None)
    in_terminal = sys.stdout.isatty()
    thinking = ThinkingParser(generation.thinking)
    has_thought = False
    with flag_interrupts() as interrupted:
        for text, is_drafted, is_last in _texts(chain([first] if first else [], pieces), interrupted):
            thought, answer = thinking.feed(text, is_last=is_last)
            if thought:
                show_thought(thought)
                has_thought = True
            if answer:
                if has_thought:
                    show_thought("\n\n")
                    has_thought = False
                display.feed(_without_controls(answer) if in_terminal else answer, is_drafted)
    display.finish()


def _texts(pieces: Iterable[Piece], interrupted: Sequence[bool]) -> Iterator[tuple[str, bool, bool]]:
    """Yield each text of ``pieces``, whether it was drafted, and whether it is the last one, which is empty.
    End early once ``interrupted`` is not empty."""
    for piece in pieces:
        yield piece.drafted, True, False
        yield piece.sampled, False, False
        if interrupted:
            break
    yield "", False, True


def show_thought(text: str) -> None:
    """Print a part of what a model thinks: dim, and on standard error unless the answer is on a terminal."""
    if text and sys.stdout.isatty():
        click.secho(_without_controls(text), dim=True, nl=False)
    elif text:
        quiet(text, ends_line=False)


def _without_controls(text: str) -> str:
    """Return ``text`` without control characters, which could be commands to the terminal."""
    return text.replace("\t", "    ").translate(_CONTROLS)
