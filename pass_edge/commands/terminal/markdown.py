"""Format markdown while it streams: show each character as soon as its meaning is clear.

A *marker* starts a line (`# `, `- `, `> `, a fence); a *run* surrounds a span (`**`, `_`, a backtick). Both
are held back until the next character shows what they are. Emphasis ends with its line at the latest, so
that a lone asterisk affects no more than that. Links, tables and HTML stay as written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.style import Style

from .answer import DRAFTED
from .word_wrap import WordWrap

if TYPE_CHECKING:
    from rich.console import Console

_UNDECIDED = re.compile(r" *(#{1,6} *|([-*_+] *)+|\d{1,9}([.)] *)?|>|`{1,2}|`{3,}[^`]*|~{1,2}|~{3,}.*)?")
"""The start of a line that may still become a marker, or a longer one."""
_HEADING = re.compile(r" {0,3}#{1,6} +")
_ITEM = re.compile(r"( *)([-*+]|\d{1,9}[.)]) +")
_QUOTE = re.compile(r" {0,3}> ?")
_FENCE = re.compile(r" *(`{3,}|~{3,})(.*)")
_RULE = re.compile(r" {0,3}([-*_])( *\1){2,} *")
_RUNS, _ESCAPABLE = "*_`~", "*_`~#\\"

_BOLD, _ITALIC, _STRIKE = Style(bold=True), Style(italic=True), Style(strike=True)
_CODE, _DIM = Style(color="yellow"), Style(dim=True)
_RULE_SHOWN = [("─", _DIM)] * 24

Letter = tuple[str, Style]
"""A character and its style."""


class Markdown:
    """A display of one answer as formatted markdown."""

    def __init__(self, console: Console, *, shows_drafts: bool = False) -> None:
        self._out = WordWrap(console)
        self._drafted_style = Style(color=DRAFTED) if shows_drafts else Style()
        self._fence = ""
        self._new_line()

    def _new_line(self) -> None:
        self._marker: list[Letter] | None = []  # None once the kind of line is known
        self._line = Style()
        self._spans: set[Style] = set()
        self._code = 0  # backticks that opened a code span
        self._run: list[Letter] = []
        self._escape: Letter | None = None
        self._before = " "
        self._out.wraps = not self._fence

    def feed(self, text: str, drafted: bool) -> None:
        """Add text; ``drafted`` text has a color of its own."""
        for character in text:
            letter = character, self._drafted_style if drafted else Style()
            if character == "\n":
                self._end_line()
            elif self._marker is None:
                self._inline(letter)
            else:
                self._marker.append(letter)
                if not self._may_be_marker(_plain(self._marker)):
                    self._begin_line(self._marker)
        self._out.write()

    def finish(self) -> None:
        """End the answer, and the line."""
        if self._marker != []:
            self._end_line()
        self._out.write()

    # -- lines ------------------------------------------------------------------------------------

    def _may_be_marker(self, start: str) -> bool:
        if self._fence:
            return not start.strip(" " + self._fence[0])
        return bool(_UNDECIDED.fullmatch(start))

    def _begin_line(self, letters: list[Letter]) -> None:
        """Begin a line whose kind is known now: write its marker as displayed, then the letters after it."""
        self._marker = None
        start = _plain(letters)
        if self._fence:
            self._line, shown, rest = _CODE, letters, []
        elif found := _HEADING.match(start):
            self._line, shown, rest = _BOLD, [], letters[found.end() :]
        elif found := _ITEM.match(start):
            shown, rest = _item(letters[: found.end()]), letters[found.end() :]
            self._out.indent = found.end()
        elif found := _QUOTE.match(start):
            self._line, shown, rest = _ITALIC, [("▌", _DIM), (" ", _DIM)], letters[found.end() :]
            self._out.indent = len(shown)
        else:
            shown, rest = [], letters
            self._out.wraps = not start.startswith("|")
        for letter in shown:
            self._put(letter)
        for letter in rest:
            self._inline(letter)

    def _end_line(self) -> None:
        if self._marker is not None:
            line = _plain(self._marker)
            if self._is_fence(line):
                self._new_line()
                return
            if _RULE.fullmatch(line) and not self._fence:
                self._begin_line(_RULE_SHOWN)
            else:
                self._begin_line(self._marker)
        self._end_run("\n")
        self._out.put("\n", Style())
        self._new_line()

    def _is_fence(self, line: str) -> bool:
        """Whether ``line`` opens or closes a block of code, which it then does; such a line is not shown."""
        found = _FENCE.fullmatch(line)
        if not found or not found[1].startswith(self._fence):
            return False
        self._fence = "" if self._fence else found[1]
        return True

    # -- spans ------------------------------------------------------------------------------------

    def _inline(self, letter: Letter) -> None:
        character = letter[0]
        if self._fence:
            self._put(letter)
            return
        if self._run and character != self._run[0][0]:
            self._end_run(character)
        if self._escape:
            escape, self._escape = self._escape, None
            if character in _ESCAPABLE:
                self._put(letter)
                return
            self._put(escape)
        if character == "`" or (character in _RUNS and not self._code):
            self._run.append(letter)
        elif character == "\\" and not self._code:
            self._escape = letter
        else:
            self._put(letter)

    def _end_run(self, after: str) -> None:
        """The run is complete: open or close its span, or write it as it is."""
        run, self._run = self._run, []
        if not run:
            if self._escape and after == "\n":
                self._put(self._escape)
            return
        if not (self._code_run(len(run)) if run[0][0] == "`" else self._emphasis_run(_plain(run), after)):
            for letter in run:
                self._put(letter)

    def _code_run(self, length: int) -> bool:
        if self._code not in (0, length):
            return False
        self._code = 0 if self._code else length
        return True

    def _emphasis_run(self, run: str, after: str) -> bool:
        spans = _spans(run)
        if spans and spans <= self._spans and not self._before.isspace():
            self._spans -= spans
            return True
        # snake_case and 2*3 are not emphasis
        inside = _is_word(self._before) and _is_word(after)
        if not spans or after.isspace() or inside:
            return False
        self._spans |= spans
        return True

    def _put(self, letter: Letter) -> None:
        character, own_style = letter
        code = _CODE if self._code else Style()
        style = Style.combine([self._line, *self._spans, code, own_style])
        self._out.put(character, style)
        self._before = character


def _plain(letters: list[Letter]) -> str:
    return "".join(character for character, _ in letters)


def _item(marker: list[Letter]) -> list[Letter]:
    return [("•" if character in "-*+" else character, style) for character, style in marker]


def _spans(run: str) -> set[Style]:
    """Return the styles that a run opens or closes; none if it is plain text."""
    if run[0] == "~":
        return {_STRIKE} if len(run) == 2 else set()
    return {1: {_ITALIC}, 2: {_BOLD}, 3: {_ITALIC, _BOLD}}.get(len(run), set())


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()
