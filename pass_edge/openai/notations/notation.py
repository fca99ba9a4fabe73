"""The notations of tool calls, by families of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pass_edge.native.lark_rules import LarkRules

from . import gemma_calls, json_calls, named_calls, python_calls, xml_calls
from .call import Reader, Schema, after


def _json_arguments(schema: Schema, rules: LarkRules) -> str:
    return rules.json(schema)


@dataclass(frozen=True)
class Notation:
    """``signs``: texts by which a chat template shows this notation, any of them. ``readers``: by the text
    that opens a call. ``preambles``: what may stand before the first call, ``marks`` what may stand behind
    one. ``has_lists``: one opening may hold several calls.

    As a model writes them, calls stand between the two parts of ``around``, with ``between`` between
    them, and ``form`` is a call, with %NAME and %ARGUMENTS; ``arguments`` returns the Lark expression of
    these.
    """

    name: str
    signs: tuple[str, ...]
    readers: Mapping[str, Reader]
    marks: tuple[str, ...] = ()
    form: str = '{"name": "%NAME", "arguments": %ARGUMENTS}'
    preambles: tuple[str, ...] = ()
    has_lists: bool = False
    around: tuple[str, str] = ("", "")
    between: str = "\n"
    arguments: Callable[[Schema, LarkRules], str] = _json_arguments

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the notation, which may be control tokens."""
        return (*self.preambles, *self.readers, *self.marks)

    @property
    def opener(self) -> str:
        """The tag with which calls begin; empty if they begin without one."""
        written = self.around[0] + self.form
        return next((tag for tag in (*self.preambles, *self.readers) if written.startswith(tag)), "")


def _json_lists(name: str, sign: str, opening: str, closing: str, form: str = Notation.form) -> Notation:
    """A notation of a JSON list between two tags."""
    readers = {opening: after(opening, json_calls.read)}
    return Notation(name, (sign,), readers, (closing,), form, (), True, (f"{opening}[", f"]{closing}"), ", ")


HERMES = Notation(
    "Hermes",
    ("<tool_call>",),
    {"<tool_call>": after("<tool_call>", json_calls.read)},
    ("</tool_call>",),
    '<tool_call>\n{"name": "%NAME", "arguments": %ARGUMENTS}\n</tool_call>',
)
NOTATIONS = (
    Notation(
        "gpt-oss",
        ("<|channel|>",),
        {
            "<|channel|>commentary": named_calls.harmony,
            "<|channel|>analysis to=": named_calls.harmony,
            " to=functions.": named_calls.harmony,
        },
        ("<|call|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>"),
        "<|channel|>commentary to=functions.%NAME <|constrain|>json<|message|>%ARGUMENTS",
        ("<|start|>assistant",),
    ),
    Notation(
        "DeepSeek",
        ("<｜tool▁call▁begin｜>",),
        {"<｜tool▁call▁begin｜>": named_calls.deepseek},
        ("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>"),
        "<｜tool▁call▁begin｜>%NAME<｜tool▁sep｜>%ARGUMENTS<｜tool▁call▁end｜>",
        ("<｜tool▁calls▁begin｜>",),
        around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        between="",
    ),
    Notation(
        "Kimi",
        ("<|tool_call_begin|>",),
        {"<|tool_call_begin|>": named_calls.kimi},
        ("<|tool_call_end|>", "<|tool_calls_section_end|>", "<|tool_call_argument_begin|>"),
        "<|tool_call_begin|>functions.%NAME:0<|tool_call_argument_begin|>%ARGUMENTS<|tool_call_end|>",
        ("<|tool_calls_section_begin|>",),
        around=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        between="",
    ),
    Notation(
        "Mistral",
        ("[ARGS]",),
        {"[TOOL_CALLS]": named_calls.mistral},
        ("[ARGS]", "[CALL_ID]"),
        "[TOOL_CALLS]%NAME[ARGS]%ARGUMENTS",
        between="",
    ),
    Notation(
        "Mistral before 2025",
        ("[TOOL_CALLS]",),
        {"[TOOL_CALLS]": named_calls.mistral},
        has_lists=True,
        around=("[TOOL_CALLS][", "]"),
        between=", ",
    ),
    Notation(
        "LFM2",
        ("<|tool_call_start|>", "<|tool_list_start|>", "List of tools: ["),
        {"<|tool_call_start|>": after("<|tool_call_start|>", python_calls.read)},
        ("<|tool_call_end|>",),
        "%NAME(%ARGUMENTS)",
        has_lists=True,
        around=("<|tool_call_start|>[", "]<|tool_call_end|>"),
        between=", ",
        arguments=python_calls.write,
    ),
    Notation(
        "Gemma",
        ("<start_function_call>",),
        {
            "<start_function_call>": gemma_calls.reader(
                "<start_function_call>", "<end_function_call>", "<escape>"
            )
        },
        ("<end_function_call>", "<escape>"),
        "<start_function_call>call:%NAME%ARGUMENTS<end_function_call>",
        between="",
        arguments=gemma_calls.writer("<escape>"),
    ),
    Notation(
        "Gemma 4",
        ("<|tool_call>",),
        {"<|tool_call>": gemma_calls.reader("<|tool_call>", "<tool_call|>", '<|"|>')},
        ("<tool_call|>", '<|"|>', "<|tool_response>"),
        "<|tool_call>call:%NAME%ARGUMENTS<tool_call|>",
        between="",
        arguments=gemma_calls.writer('<|"|>'),
    ),
    Notation(
        "Seed-OSS",
        ("<seed:tool_call>",),
        {"<seed:tool_call>": after("<seed:tool_call>", xml_calls.QWEN.read)},
        ("</seed:tool_call>",),
        "<seed:tool_call>\n<function=%NAME>\n%ARGUMENTS</function>\n</seed:tool_call>",
        arguments=xml_calls.QWEN.write,
    ),
    Notation(
        "Qwen3-Coder",
        ("<parameter=",),
        {"<tool_call>": after("<tool_call>", xml_calls.QWEN.read), "<function=": xml_calls.QWEN.read},
        ("</tool_call>",),
        "<tool_call>\n<function=%NAME>\n%ARGUMENTS</function>\n</tool_call>",
        arguments=xml_calls.QWEN.write,
    ),
    Notation(
        "Functionary",
        ("<function=",),
        {"<function=": named_calls.functionary},
        ("</function>",),
        "<function=%NAME>%ARGUMENTS</function>",
        between="",
    ),
    Notation(
        "GLM",
        ("<arg_key>",),
        {"<tool_call>": after("<tool_call>", xml_calls.GLM.read)},
        (),
        "<tool_call>%NAME\n%ARGUMENTS</tool_call>",
        arguments=xml_calls.GLM.write,
    ),
    Notation(
        "DeepSeek V3.2",
        ("｜DSML｜",),
        {"<｜DSML｜invoke ": xml_calls.DSML.read},
        ("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
        '<｜DSML｜invoke name="%NAME">\n%ARGUMENTS</｜DSML｜invoke>\n',
        ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"),
        around=("<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>"),
        between="",
        arguments=xml_calls.DSML.write,
    ),
    Notation(
        "MiniMax M2",
        ("<minimax:tool_call>",),
        {"<invoke ": xml_calls.INVOKE.read},
        ("</minimax:tool_call>",),
        '<invoke name="%NAME">\n%ARGUMENTS</invoke>\n',
        ("<minimax:tool_call>",),
        around=("<minimax:tool_call>\n", "</minimax:tool_call>"),
        between="",
        arguments=xml_calls.INVOKE.write,
    ),
    Notation(
        "MiniCPM5",
        ('<function name="',),
        {"<function name=": xml_calls.MINICPM.read},
        form='<function name="%NAME">%ARGUMENTS</function>',
        arguments=xml_calls.MINICPM.write,
    ),
    Notation(
        "Llama 3",
        ("<|python_tag|>", '{"name": function name, "parameters"'),
        {"<|python_tag|>": after("<|python_tag|>", json_calls.read)},
        (),
        '{"name": "%NAME", "parameters": %ARGUMENTS}',
        between="; ",
    ),
    Notation(
        "GigaChat",
        ("<|function_call|>",),
        {"<|function_call|>": after("<|function_call|>", json_calls.read)},
        (),
        '<|function_call|>{"name": "%NAME", "arguments": %ARGUMENTS}',
    ),
    _json_lists("Granite 3, Phi 4", "<|tool_call|>", "<|tool_call|>", "<|/tool_call|>"),
    _json_lists("Nemotron Nano 2", "<TOOLCALL>", "<TOOLCALL>", "</TOOLCALL>"),
    _json_lists("Apriel, MiniMax M1", "<tool_calls>", "<tool_calls>", "</tool_calls>"),
    _json_lists(
        "Command R7B",
        "<|START_ACTION|>",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        '{"tool_call_id": "0", "tool_name": "%NAME", "parameters": %ARGUMENTS}',
    ),
    _json_lists(
        "Apertus", "<|tools_prefix|>", "<|tools_prefix|>", "<|tools_suffix|>", '{"%NAME": %ARGUMENTS}'
    ),
    HERMES,
)


def notation_of(template: str) -> Notation:
    """Return the notation that a chat template shows; that of Hermes if it shows none that is known."""
    return next((each for each in NOTATIONS if any(sign in template for sign in each.signs)), HERMES)
