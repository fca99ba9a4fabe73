"""Turning new tokens into text as they come, and stopping at stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from pass_edge.native.vocabulary import Detokenizer, Vocabulary


class TextStream:
    """Tokens in, text out; whatever could still become a stop string is held back.

    ``stopped`` turns true once a stop string was met; the text before it has then been given out.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(vocabulary)
        self._stop = [string for string in stop if string]
        self._held = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that became certain with ``token``."""
        return self._release(self._detokenizer.feed([token]))

    def finish(self) -> str:
        """What was held back when the generation ended for another reason."""
        if self.stopped:
            return ""
        text = self._release(self._detokenizer.finish())
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _release(self, text: str) -> str:
        self._held += text
        ends = [place for string in self._stop if (place := self._held.find(string)) >= 0]
        if ends:
            self.stopped = True
            keep = min(ends)
        else:
            keep = len(self._held) - self._could_become_stop()
        released, self._held = self._held[:keep], self._held[keep:]
        return released

    def _could_become_stop(self) -> int:
        lengths = (
            length
            for string in self._stop
            for length in range(min(len(string) - 1, len(self._held)), 0, -1)
            if self._held.endswith(string[:length])
        )
        return max(lengths, default=0)
