"""Turn generated tokens into text, and stop at stop strings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Detokenizer, Text, Vocabulary, as_text

from .thinking import Thinking, ThinkingParser, overlap


class TextStream:
    """Detokenizes a text while it is generated. Holds back text that may become a stop string, and what may
    become a tag of thinking, within which no stop string counts.

    Attributes: ``stop_string``, the one that occurred, or empty; the text up to it has been returned then.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: Sequence[str],
        visible: Collection[int] = (),
        thinking: Thinking | None = None,
        kept_stops: Collection[str] = (),
    ) -> None:
        """``visible``: control tokens whose text is part of the text. ``thinking``: what the text may begin
        with. ``kept_stops``: those of ``stop`` that are part of the text."""
        self._detokenizer = Detokenizer(vocabulary, visible)
        self._thinking = ThinkingParser(thinking)
        self._undecided = ""  # whether it is thinking or answer
        self._stop = [string for string in stop if string]
        self._kept_stops = kept_stops
        self._held = ""
        self.stop_string = ""

    def feed(self, token: int, *, may_stop: bool = True) -> str:
        """Add ``token`` and return the new text that is certain. Without ``may_stop``, its text is no part of
        a stop string."""
        thought, answer = self._split(self._detokenizer.feed([token]))
        if not may_stop:
            answer, self._held = self._held + answer, ""
            return thought + answer
        return thought + self._release(answer)

    def finish(self) -> str:
        """End the text without a stop string: return what was held back."""
        if self.stop_string:
            return ""
        thought, answer = self._split(self._detokenizer.finish(), is_last=True)
        text = thought + self._release(answer)
        held, self._held = self._held, ""
        return text if self.stop_string else text + held

    def _split(self, text: str, *, is_last: bool = False) -> tuple[str, str]:
        """Return the new text up to the end of the thinking, tags and all, and that of the answer."""
        _, answer = self._thinking.feed(text, is_last=is_last)
        text = self._undecided + text
        decided = len(text) - self._thinking.n_held
        self._undecided = text[decided:]
        return text[: decided - len(answer)], text[decided - len(answer) : decided]

    def _release(self, text: str) -> str:
        self._held += text
        found = [(start, string) for string in self._stop if (start := self._held.find(string)) >= 0]
        if found:
            length, self.stop_string = min(found)
            length += len(self.stop_string) * (self.stop_string in self._kept_stops)
        else:
            length = len(self._held) - max((overlap(self._held, each) for each in self._stop), default=0)
        released, self._held = self._held[:length], self._held[length:]
        return released


def stop_strings(stop: Text | Sequence[Text] | None) -> list[str]:
    """Return the strings of ``stop``, which may be one or several. Raises SettingsError."""
    strings = (stop,) if isinstance(stop, Text) else tuple(stop or ())
    if not all(isinstance(string, Text) for string in strings):
        raise SettingsError(f"stop is {stop!r:.60}; it must be text, or a list of texts")
    return [as_text(string) for string in strings]
