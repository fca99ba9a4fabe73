"""Rules of a grammar in Lark, collected while calls are described."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .constraint import lark_grammar, lark_pattern, lark_text
from .vocabulary import Vocabulary

_BLANK = r"[ \n]{0,3}"


class LarkRules:
    """Collects rules, and the JSON schemas that they name. Its methods return Lark expressions."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._rules: list[str] = []
        self._names: dict[str, str] = {}
        self._schemas: dict[str, Mapping[str, Any]] = {}

    def text(self, text: str) -> str:
        """``text`` itself; control tokens that it names are these tokens."""
        return lark_text(self._vocabulary, text) if text else self.rule('""')

    def json(self, schema: Mapping[str, Any]) -> str:
        """A JSON text that matches ``schema``."""
        name = next((name for name, each in self._schemas.items() if each == schema), None)
        if name is None:
            name = f"json_{len(self._schemas)}"
            self._schemas[name] = schema
        return f"@{name}"

    def until(self, closing: str) -> str:
        """The shortest text that ends with ``closing``."""
        ending = self.text(closing)
        if ending.startswith("<["):
            return f"{self.any_text()} {ending}"
        return self.rule(f"/(.|\\n)*{lark_pattern(closing)}/", "[lazy]")

    def rule(self, expression: str, attributes: str = "", *, is_terminal: bool = False) -> str:
        """A rule of its own for ``expression``; the same rule for the same expression."""
        key = f"{attributes}{expression}"
        if key not in self._names:
            self._names[key] = f"{'T' if is_terminal else 'rule_'}{len(self._names)}"
            self._rules.append(f"{self._names[key]}{attributes}: {expression}")
        return self._names[key]

    def recursive(self, key: str, expression: Callable[[], str]) -> str:
        """The rule of ``expression``, which may name this rule itself by ``key``."""
        key = f"recursive {key}"
        if key not in self._names:
            name = self._names[key] = f"rule_{len(self._names)}"
            self._rules.append(f"{name}: {expression()}")
        return self._names[key]

    def any_of(self, expressions: Sequence[str]) -> str:
        """One of the expressions."""
        return f"({' | '.join(expressions)})"

    def listed(self, parts: Sequence[tuple[str, bool]], separator: str) -> str:
        """The parts in their order, with ``separator`` between them; those that are not required may be left
        out."""
        first = more = self.rule('""')
        between = self.text(separator)
        for part, is_required in reversed(parts):
            first_alternatives, more_alternatives = [f"{part} {more}"], [f"{between} {part} {more}"]
            if not is_required:
                first_alternatives.append(first)
                more_alternatives.append(more)
            first, more = self.rule(" | ".join(first_alternatives)), self.rule(" | ".join(more_alternatives))
        return first

    def any_text(self, without: str = "") -> str:
        """Any text without control tokens; ``without``: what it does not begin with, white space aside."""
        beginning = f" & ~/{_BLANK}{lark_pattern(without)}(.|\\n)*/" if without else ""
        return self.rule(rf"/(.|\n)*/{beginning}", is_terminal=True)

    def blank(self) -> str:
        """Up to three spaces and line feeds."""
        return self.rule(f"/{_BLANK}/", is_terminal=True)

    def split(self, text: str) -> tuple[str, str]:
        """The control tokens that ``text`` begins with, and the text behind them."""
        first, *others = self.text(text).split(" ", 1)
        if not first.startswith("<["):
            return "", text
        return first, json.loads(others[0]) if others else ""

    def grammar(self, start: str, **grammars: str) -> str:
        """Return the grammar of the text that ``start`` describes, in which ``@name`` is a text under the
        grammar of that name. Raises SettingsError."""
        return lark_grammar("\n".join([f"start: {start}", *self._rules]), self._schemas, grammars)
