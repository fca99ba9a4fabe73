"""The families of notations, and what the readers of one call return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import gemma_calls, json_calls, python_calls, xml_calls
from .call import Call, IncompleteError

__all__ = ["HERMES", "NOTATIONS", "Call", "IncompleteError", "Notation", "notation_of"]

Reader = Callable[[str], "Call | None"]
"""Reads the call at the start of a text: None if it is no call. Raises IncompleteError where more text is
needed."""


@dataclass(frozen=True)
class Notation:
    """``template``: a mark by which a chat template shows this notation. ``readers``: by the text that
    opens a call. ``preambles``: what may stand before the first call. ``marks``: what may stand behind
    a call. ``form``: a call as the model writes it, with %NAME and %ARGUMENTS, which are JSON. ``has_lists``:
    one opening may hold several calls."""

    name: str
    template: str
    readers: Mapping[str, Reader]
    marks: tuple[str, ...] = ()
    form: str = '{"name": "%NAME", "arguments": %ARGUMENTS}'
    preambles: tuple[str, ...] = ()
    has_lists: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the notation, which may be control tokens."""
        return (*self.preambles, *self.readers, *self.marks)


HERMES = Notation(
    "Hermes",
    "<tool_call>",
    {"<tool_call>": json_calls.after("<tool_call>")},
    ("</tool_call>",),
    '<tool_call>\n{"name": "%NAME", "arguments": %ARGUMENTS}\n</tool_call>',
)
NOTATIONS = (
    Notation(
        "gpt-oss",
        "<|channel|>",
        {
            "<|channel|>commentary": json_calls.harmony,
            "<|channel|>analysis to=": json_calls.harmony,
            " to=functions.": json_calls.harmony,
        },
        ("<|call|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>"),
        "<|channel|>commentary to=functions.%NAME <|constrain|>json<|message|>%ARGUMENTS",
        ("<|start|>assistant",),
    ),
    Notation(
        "DeepSeek",
        "<｜tool▁call▁begin｜>",
        {"<｜tool▁call▁begin｜>": json_calls.deepseek},
        ("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>"),
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>%NAME<｜tool▁sep｜>%ARGUMENTS<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        ("<｜tool▁calls▁begin｜>",),
    ),
    Notation(
        "Mistral",
        "[ARGS]",
        {"[TOOL_CALLS]": json_calls.mistral},
        ("[ARGS]", "[CALL_ID]"),
        "[TOOL_CALLS]%NAME[ARGS]%ARGUMENTS",
    ),
    Notation(
        "Mistral before 2025",
        "[TOOL_CALLS]",
        {"[TOOL_CALLS]": json_calls.mistral},
        (),
        '[TOOL_CALLS][{"name": "%NAME", "arguments": %ARGUMENTS}]',
    ),
    Notation(
        "LFM2",
        "<|tool_call_start|>",
        {"<|tool_call_start|>": python_calls.after("<|tool_call_start|>")},
        ("<|tool_call_end|>",),
        has_lists=True,
    ),
    Notation(
        "Gemma",
        "<start_function_call>",
        {"<start_function_call>": gemma_calls.read},
        ("<end_function_call>", "<escape>"),
    ),
    Notation(
        "Qwen3-Coder",
        "<function=",
        {"<tool_call>": xml_calls.after("<tool_call>"), "<function=": xml_calls.after("")},
        ("</tool_call>",),
    ),
    Notation(
        "Llama 3",
        "<|python_tag|>",
        {"<|python_tag|>": json_calls.after("<|python_tag|>")},
        (),
        '{"name": "%NAME", "parameters": %ARGUMENTS}',
    ),
    HERMES,
)


def notation_of(template: str) -> Notation:
    """Return the notation that a chat template shows; that of Hermes if it shows none that is known."""
    return next((each for each in NOTATIONS if each.template in template), HERMES)
