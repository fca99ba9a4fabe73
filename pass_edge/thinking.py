"""What a model thinks before it answers: told apart from the answer by the tags of its chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pass_edge.native.lark_rules import LarkRules
from pass_edge.native.vocabulary import Vocabulary


@dataclass(frozen=True)
class Thinking:
    """``opening``, ``closing``: the tags around the thinking. ``between``: what a model writes between it and
    the answer, and ``answer`` what opens an answer. ``skipped``: further texts that may stand before the
    answer. ``is_open``: the prompt ends with the opening tag, so the text begins inside; ``has_begun``: the
    prompt holds a part of the thinking, too."""

    opening: str
    closing: str
    between: str = ""
    answer: str = ""
    skipped: tuple[str, ...] = ()
    is_open: bool = False
    has_begun: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """All tags, which may be control tokens."""
        return (self.opening, self.closing, *self.before_answer)

    @property
    def before_answer(self) -> tuple[str, ...]:
        """The texts that may stand before the answer."""
        return tuple(filter(None, (self.between, self.answer, *self.skipped)))

    @property
    def ending(self) -> str:
        """The text that ends the thinking, wherever it is, and opens the answer."""
        if self.between or self.answer:
            return self.closing + self.between + self.answer
        return f"\n{self.closing}\n\n"


_KINDS = (
    Thinking(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        "<|start|>assistant",
        "<|channel|>final<|message|>",
        ("<|channel|>commentary<|message|>",),
    ),
    Thinking("<|channel>thought", "<channel|>"),  # Gemma 4
    Thinking("<|START_THINKING|>", "<|END_THINKING|>", answer="<|START_RESPONSE|>"),  # Command R7B
    Thinking("<think>", "</think>", skipped=("<response>",)),  # which Granite 3.3 writes
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<seed:think>", "</seed:think>"),
    Thinking("<mm:think>", "</mm:think>"),
    Thinking("<thought>", "</thought>"),
    Thinking("<reasoning>", "</reasoning>"),
)


def thinking_of(template: str, prompt: str = "") -> Thinking | None:
    """Return the tags that a chat template shows, None if its model does not think. ``prompt``: the rendered
    one, which may open the thinking itself."""
    for kind in _KINDS:
        if kind.closing in template and kind.opening.partition("<|message|>")[0] in template:
            return replace(kind, is_open=prompt.rstrip().endswith(kind.opening))
    return None


def begun_turn(
    thinking: Thinking | None, prompt: str, reasoning: str, content: str
) -> tuple[str, Thinking | None]:
    """Return what follows ``prompt`` if the assistant's turn has begun with ``reasoning`` and ``content``,
    and the thinking that may still come."""
    if thinking is None or not (reasoning or content):
        return content, thinking
    if content and prompt.rstrip().endswith(thinking.closing):
        return content, None
    if thinking.answer and not (reasoning or thinking.is_open):
        return thinking.answer + content, None
    gap = "" if thinking.answer else "\n"
    thought = ("" if thinking.is_open else thinking.opening + gap) + reasoning
    if content:
        return thought + thinking.ending + content, None
    return thought, replace(thinking, is_open=True, has_begun=True)


def closed_thinking(template: str, prompt: str) -> str:
    """Return what to write behind ``prompt`` so that a model does not think: nothing if its template has a
    variable for that, or if it does not think."""
    thinking = thinking_of(template, prompt)
    if thinking is None or re.search(r"enable_thinking|(?<![.\w'\"])thinking\b(?!['\"\w])", template):
        return ""
    return ("" if thinking.is_open else thinking.opening) + thinking.ending


def behind_thinking(
    grammar: str, thinking: Thinking, vocabulary: Vocabulary, before: str | None = None
) -> str:
    """Return ``grammar`` for a text that may begin with thinking of any form. ``before``: what stands before
    the text that ``grammar`` describes, None for what opens an answer. Raises SettingsError."""
    rules = LarkRules(vocabulary)
    thought = f"{rules.until(thinking.closing)} {rules.text(thinking.between)}"
    if not thinking.is_open:
        thought = f"({rules.text(thinking.opening)} {thought})?"
    before = thinking.answer if before is None else before
    opening = rules.text(before) if before else rules.blank()
    return rules.grammar(f"{thought} {opening} @constrained", constrained=grammar)


def split_thinking(thinking: Thinking | None, text: str) -> tuple[str, str]:
    """Return the thinking and the answer that ``text`` consists of."""
    return ThinkingParser(thinking).feed(text, is_last=True)


def may_become(text: str, beginning: str) -> bool:
    """Return whether ``text`` is too short to tell whether it begins with ``beginning``."""
    return len(text) < len(beginning) and beginning.startswith(text)


def overlap(text: str, beginning: str) -> int:
    """Return the length of the longest part of ``beginning``, not all of it, that ends ``text``."""
    lengths = range(min(len(beginning) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(beginning[:length])), 0)


class ThinkingParser:
    """Separates the thinking at the beginning of a text from the answer while the text arrives."""

    def __init__(self, thinking: Thinking | None) -> None:
        self._thinking = thinking
        self._held = ""
        self._state = "answer" if thinking is None else "inside" if thinking.is_open else "start"
        self._has_thought = thinking is not None and thinking.has_begun

    @property
    def n_held(self) -> int:
        """How much of the text is held back, because what it belongs to is not certain."""
        return len(self._held)

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, str]:
        """Add ``text`` and return the new text of the thinking and of the answer that is certain."""
        self._held += text
        thought = ""
        if self._state == "start":
            self._begin(is_last=is_last)
        if self._state == "inside":
            thought = self._think(is_last=is_last)
        if self._state == "behind":
            self._skip(is_last=is_last)
        if self._state != "answer":
            return thought, ""
        answer, self._held = self._held, ""
        return thought, answer

    def _begin(self, *, is_last: bool) -> None:
        assert self._thinking
        body, opening = self._held.lstrip(), self._thinking.opening
        if body.startswith(opening):
            self._held, self._state = body[len(opening) :], "inside"
        elif is_last or not may_become(body, opening):
            # an answer without thinking may begin with the tags that otherwise follow it
            skips = any(may_become(body, tag) or body.startswith(tag) for tag in self._thinking.before_answer)
            self._state = "behind" if skips else "answer"

    def _think(self, *, is_last: bool) -> str:
        assert self._thinking
        closing = self._thinking.closing
        if not self._has_thought:
            self._held = self._held.lstrip()
        before, found, after = self._held.partition(closing)
        if found:
            thought, self._held, self._state = before.rstrip(), after, "behind"
        elif is_last:
            thought, self._held = before.rstrip(), ""
        else:
            thought = before[: len(before) - overlap(before, closing)].rstrip()
            self._held = before[len(thought) :]
        self._has_thought = self._has_thought or bool(thought)
        return thought

    def _skip(self, *, is_last: bool) -> None:
        """Drop white space and tags before the answer."""
        assert self._thinking
        tag = " "
        while tag:
            self._held = self._held.lstrip()
            tag = next((tag for tag in self._thinking.before_answer if self._held.startswith(tag)), "")
            self._held = self._held[len(tag) :]
        waits = not self._held or any(may_become(self._held, tag) for tag in self._thinking.before_answer)
        if is_last or not waits:
            self._state = "answer"
