"""End code at the end of a line, as editors that complete it wish."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LineLimit:
    """Ends a text at a line that is indented by fewer than ``min_indent`` letters, or at the first line break
    after ``seconds``. The first line, which the prompt began, counts for neither.

    Attributes: ``is_reached``.
    """

    min_indent: int = 0
    seconds: float | None = None
    is_reached: bool = field(default=False, init=False)
    _indent: int | None = field(default=None, init=False)  # of a line of which there is nothing else yet

    def cut(self, text: str, seconds: float) -> str:
        """Return ``text``, which comes after ``seconds`` of generation, up to where the limit is reached."""
        if self.is_reached:
            return ""
        for i, letter in enumerate(text):
            if self._indent is not None and letter in " \t":
                self._indent += 1
                continue
            if self._indent is not None and self._indent < self.min_indent:
                self.is_reached = True
                return text[:i]
            self._indent = 0 if letter == "\n" else None
            if letter == "\n" and self.seconds is not None and seconds > self.seconds:
                self.is_reached = True
                return text[: i + 1]
        return text
