"""Wrap styled text between words while it streams.

Written text is never drawn again: nothing flickers, scrolling loses nothing, and a resize needs no
repainting, because the next line has the new width.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_JOINER = "\u200d"
_NO_BREAK_BEFORE = ("Mn", "Me", "Cf", "Pe", "Pf", "Sk")
"""Unicode categories that never start a line: marks, joiners, closing brackets and quotes, skin tones."""


class WordWrap:
    """Holds a word back until it is complete, and puts it on the line where it fits.

    Attributes: ``indent``, the columns before a wrapped line; ``wraps``, false to leave lines as they are.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ready = Text()
        self._word: list[tuple[str, Style]] = []
        self._column = 0
        self.indent = 0
        self.wraps = True

    def put(self, letter: str, style: Style) -> None:
        """Add one character, a newline included."""
        if letter == "\n":
            self._end_word()
            self._ready.append("\n")
            self._column = self.indent = 0
        elif letter == " ":
            self._end_word()
            if self._column < self._console.width or not self.wraps:
                self._ready.append(" ", style)
                self._column += 1
        else:
            if self._may_break_before(letter):
                self._end_word()
            if self._word and self._word[-1][1] == style:
                letter = self._word.pop()[0] + letter
            self._word.append((letter, style))

    def write(self) -> None:
        """Write all but the last word, which may continue."""
        if self._ready:
            self._console.print(self._ready, end="", soft_wrap=True, highlight=False)
            self._ready = Text()

    def _end_word(self) -> None:
        if not self._word:
            return
        length = sum(cell_len(part) for part, _ in self._word)
        too_long = self._column + length > self._console.width
        if self.wraps and too_long and self._column > self.indent:
            self._ready.append("\n" + " " * self.indent)
            self._column = self.indent
        self._column += length
        for part, style in self._word:
            self._ready.append(part, style)
        self._word = []

    def _may_break_before(self, letter: str) -> bool:
        # wide scripts have no spaces, but a line may not start with their closing punctuation; accents and
        # joined emoji are drawn onto the character before, and stay with it
        before = self._word[-1][0][-1] if self._word else _JOINER
        if before == _JOINER or unicodedata.category(letter) in _NO_BREAK_BEFORE:
            return False
        if unicodedata.category(letter) == "Po" and cell_len(letter) == 2:
            return False
        return cell_len(letter) == 2 or cell_len(before) == 2
