"""Tool calls as models of many families write them."""

from __future__ import annotations

import json
from typing import Any

SCHEMAS: dict[str, Any] = {
    "get_weather": {},
    "add": {},
    "find": {
        "properties": {
            "zip": {"type": "string"},
            "limit": {"$ref": "#/$defs/Limit"},
            "near": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            "kinds": {"type": "array", "items": {"type": "string"}},
            "box": {"type": "object"},
        },
        "$defs": {"Limit": {"type": "integer"}},
    },
}
PARIS: dict[str, Any] = {"city": "Paris", "days": 2}
ADD: dict[str, Any] = {"a": [1, 2], "b": {"c": 'x"}{'}, "é": True}
FIND: dict[str, Any] = {"zip": "0123", "limit": 3, "near": True, "kinds": ["a", "b"], "box": {"k": "v"}}
"""What XML does not tell apart, and schemas do."""
P, A, F = json.dumps(PARIS), json.dumps(ADD, ensure_ascii=False), json.dumps(FIND)

# notation of the template, text, content, calls
TEXTS: dict[str, tuple[str, str, str, list[tuple[str, Any]]]] = {
    "Hermes": (
        "<tool_call>",
        f'<tool_call>\n{{"name": "get_weather", "arguments": {P}}}\n</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "Hermes, text around two calls": (
        "<tool_call>",
        (
            f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {P}}}\n</tool_call>\n'
            f'<tool_call>{{"name": "add", "arguments": {A}}}</tool_call>\nDone <b>.'
        ),
        "Let me see.\nDone <b>.",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "Hermes, arguments first": (
        "<tool_call>",
        f'<tool_call>{{"arguments": {P}, "name": "get_weather"}}</tool_call>',
        "",
        [("get_weather", PARIS)],
    ),
    "Qwen3-Coder": (
        "<parameter=",
        (
            "I call:\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
            "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
        ),
        "I call:\n\n",
        [("get_weather", PARIS)],
    ),
    "Qwen3-Coder, several lines": (
        "<parameter=",
        (
            "<tool_call>\n<function=add>\n<parameter=a>\ndef f():\n    return '<b>'\n</parameter>\n"
            '<parameter=b>\n{"c": [1]}\n</parameter>\n</function>\n</tool_call>\n'
            "<tool_call>\n<function=add>\n"
            "</function>\n</tool_call>"
        ),
        "",
        [("add", {"a": "def f():\n    return '<b>'", "b": {"c": [1]}}), ("add", {})],
    ),
    "Llama 3": (
        "<|python_tag|>",
        f'{{"name": "get_weather", "parameters": {P}}}',
        "",
        [("get_weather", PARIS)],
    ),
    "Llama 3, a tag and two calls": (
        "<|python_tag|>",
        (
            f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {P}}}; '
            f'{{"name": "add", "parameters": {A}}}'
        ),
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "a list": (
        "",
        f'[{{"name": "get_weather", "arguments": {P}}}, {{"name": "add", "arguments": {A}}}]',
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "line by line": (
        "",
        f'{{"name": "get_weather", "arguments": {P}}}\n{{"name": "add", "arguments": {A}}}\nThat is all.',
        "That is all.",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "OpenAI's own form": (
        "",
        json.dumps({"type": "function", "function": {"name": "add", "arguments": A}}),
        "",
        [("add", ADD)],
    ),
    "Mistral": (
        "[TOOL_CALLS]",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {P}}}, {{"name": "add", "arguments": {A}}}]',
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "Mistral, with names before": (
        "[TOOL_CALLS]",
        f"Well[TOOL_CALLS]get_weather[ARGS]{P}[TOOL_CALLS]add[CALL_ID]abc123xyz[ARGS]{A}",
        "Well",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "LFM2": (
        "<|tool_call_start|>",
        '<|tool_call_start|>[get_weather(city="Paris", days=2)]<|tool_call_end|>Checking the weather.',
        "Checking the weather.",
        [("get_weather", PARIS)],
    ),
    "LFM2, two calls": (
        "<|tool_call_start|>",
        (
            "<|tool_call_start|>[get_weather(city='Paris', days=2), add(a=[1, 2], b={'c': 'x\"}{('}, é=True)]"
            "<|tool_call_end|>"
        ),
        "",
        [("get_weather", PARIS), ("add", ADD | {"b": {"c": 'x"}{('}})],
    ),
    "Gemma": (
        "<start_function_call>",
        (
            "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>"
            '<start_function_call>call:add{a:[1,2],b:{c:<escape>x"}{<escape>}}<end_function_call>'
        ),
        "",
        [("get_weather", PARIS), ("add", {"a": [1, 2], "b": {"c": 'x"}{'}})],
    ),
    "DeepSeek R1": (
        "<｜tool▁call▁begin｜>",
        (
            "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            f"{P}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{A}\n```"
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        "Hm.",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "DeepSeek V3.1": (
        "<｜tool▁call▁begin｜>",
        (
            f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{P}<｜tool▁call▁end｜>"
            f"<｜tool▁call▁begin｜>add<｜tool▁sep｜>{A}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        "",
        [("get_weather", PARIS), ("add", ADD)],
    ),
    "gpt-oss": (
        "<|channel|>",
        f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{P}<|call|>",
        "",
        [("get_weather", PARIS)],
    ),
    "gpt-oss, the recipient first": (
        "<|channel|>",
        f"<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{A}<|call|>",
        "",
        [("add", ADD)],
    ),
    "Qwen3-Coder, values by their schema": (
        "<parameter=",
        (
            "<tool_call>\n<function=find>\n<parameter=zip>\n0123\n</parameter>\n<parameter=limit>\n3\n"
            "</parameter>\n<parameter=near>\nTrue\n</parameter>\n"
            "<parameter=kinds>\n['a', 'b']\n</parameter>\n"
            '<parameter=box>\n{"k": "v"}\n</parameter>\n</function>\n</tool_call>'
        ),
        "",
        [("find", FIND)],
    ),
    "Seed-OSS": (
        "<seed:tool_call>",
        (
            "<seed:tool_call>\n<function=find>\n<parameter=zip>0123</parameter>\n<parameter=limit>3</parameter>\n"
            "<parameter=near>True</parameter>\n<parameter=kinds>['a', 'b']</parameter>\n"
            "<parameter=box>{'k': 'v'}</parameter>\n</function>\n</seed:tool_call>"
        ),
        "",
        [("find", FIND)],
    ),
    "GLM": (
        "<arg_key>",
        (
            "<tool_call>find\n<arg_key>zip</arg_key>\n<arg_value>0123</arg_value>\n<arg_key>limit</arg_key>\n"
            "<arg_value>3</arg_value>\n<arg_key>near</arg_key>\n<arg_value>true</arg_value>\n"
            '<arg_key>kinds</arg_key>\n<arg_value>["a", "b"]</arg_value>\n<arg_key>box</arg_key>\n'
            '<arg_value>{"k": "v"}</arg_value>\n</tool_call>\n<tool_call>add</tool_call>'
        ),
        "",
        [("find", FIND), ("add", {})],
    ),
    "MiniMax M2": (
        "<minimax:tool_call>",
        (
            '<minimax:tool_call>\n<invoke name="find">\n<parameter name="zip">0123</parameter>\n'
            '<parameter name="limit">3</parameter>\n<parameter name="near">true</parameter>\n'
            '<parameter name="kinds">["a", "b"]</parameter>\n<parameter name="box">{"k": "v"}</parameter>\n'
            '</invoke>\n<invoke name="add">\n</invoke>\n</minimax:tool_call>'
        ),
        "",
        [("find", FIND), ("add", {})],
    ),
    "MiniCPM5": (
        '<function name="',
        (
            '<function name="find"><param name="zip"><![CDATA[0123]]></param><param name="limit">3</param>'
            "<param name=\"near\">True</param><param name=\"kinds\">['a', 'b']</param>"
            "<param name=\"box\">{'k': 'v'}</param></function>"
        ),
        "",
        [("find", FIND)],
    ),
    "DeepSeek V3.2": (
        "｜DSML｜",
        (
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="find">\n'
            '<｜DSML｜parameter name="zip" string="true">0123</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="limit" string="false">3</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="near" string="false">true</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="kinds" string="false">["a", "b"]</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="box" string="false">{"k": "v"}</｜DSML｜parameter>\n'
            "</｜DSML｜invoke>\n</｜DSML｜function_calls>"
        ),
        "",
        [("find", FIND)],
    ),
    "Gemma 4": (
        "<|tool_call>",
        (
            '<|tool_call>call:find{box:{k:<|"|>v<|"|>},kinds:[<|"|>a<|"|>,<|"|>b<|"|>],limit:3,near:true,'
            'zip:<|"|>0123<|"|>}<tool_call|><|tool_call>call:add{}<tool_call|>'
        ),
        "",
        [("find", FIND), ("add", {})],
    ),
    "LFM2, names of JSON and of Python's own": (
        "List of tools: [",
        (
            '<|tool_call_start|>[find(near=true, zip="0123", from=[null, None], é="\\ud83d\\ude00")]'
            "<|tool_call_end|>"
        ),
        "",
        [("find", {"near": True, "zip": "0123", "from": [None, None], "é": "😀"})],
    ),
    "Functionary": ("<function=", f"<function=find>{F}</function>", "", [("find", FIND)]),
    "Granite 3": (
        "<|tool_call|>",
        f'<|tool_call|>[{{"name": "find", "arguments": {F}}}, {{"name": "add", "arguments": {A}}}]',
        "",
        [("find", FIND), ("add", ADD)],
    ),
    "Phi 4": (
        "<|tool_call|>",
        f'<|tool_call|>[{{"name": "find", "arguments": {F}}}]<|/tool_call|>',
        "",
        [("find", FIND)],
    ),
    "Nemotron Nano 2": (
        "<TOOLCALL>",
        f'<TOOLCALL>[{{"name": "find", "arguments": {F}}}]</TOOLCALL>',
        "",
        [("find", FIND)],
    ),
    "Command R7B": (
        "<|START_ACTION|>",
        (
            f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "find", "parameters": {F}}},\n'
            f'    {{"tool_call_id": "1", "tool_name": "add", "parameters": {A}}}\n]<|END_ACTION|>'
        ),
        "",
        [("find", FIND), ("add", ADD)],
    ),
    "Apertus": (
        "<|tools_prefix|>",
        f'<|tools_prefix|>[{{"find": {F}}}, {{"add": {A}}}]<|tools_suffix|>',
        "",
        [("find", FIND), ("add", ADD)],
    ),
    "Kimi": (
        "<|tool_call_begin|>",
        (
            "Hm.<|tool_calls_section_begin|><|tool_call_begin|>functions.find:0<|tool_call_argument_begin|>"
            f"{F}<|tool_call_end|><|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>{A}"
            "<|tool_call_end|><|tool_calls_section_end|>"
        ),
        "Hm.",
        [("find", FIND), ("add", ADD)],
    ),
    "GigaChat": (
        "<|function_call|>",
        f'<|function_call|>{{"name": "find", "arguments": {F}}}',
        "",
        [("find", FIND)],
    ),
    # no calls
    "a description of a tool": (
        "<tool_call>",
        '[{"name": "get_weather", "description": "Tells the weather."}]',
        '[{"name": "get_weather", "description": "Tells the weather."}]',
        [],
    ),
    "arguments that are no object": (
        "<tool_call>",
        '{"name": "get_weather", "arguments": [1]}',
        '{"name": "get_weather", "arguments": [1]}',
        [],
    ),
    "another function": (
        "<tool_call>",
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        [],
    ),
    "what begins like a tag": ("<tool_call>", "no call < at <tool all", "no call < at <tool all", []),
    "a list of numbers": ("", "  [1, 2]", "  [1, 2]", []),
    "another JSON": ("", '{"city": {"name": "get_weather"}}', '{"city": {"name": "get_weather"}}', []),
    "a call in the middle of a sentence": (
        "",
        f'see {{"name": "get_weather", "arguments": {P}}}',
        f'see {{"name": "get_weather", "arguments": {P}}}',
        [],
    ),
}
