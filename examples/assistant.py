"""Chat with an assistant that uses tools: the time, a calculator, the files of one folder.

python examples/assistant.py notes -m qwen3-1.7b.gguf
"""

import argparse
import json
import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pass_edge import Llama, default_model


def calculate(expression: str) -> str:
    if set(expression) - set("0123456789 .()+-*/") or re.search(r"\*\*|[0-9.)] *\(", expression):
        raise ValueError("only numbers, brackets and + - * / are possible, and no * may be left out")
    return str(eval(expression))  # it can neither name nor call anything


def read_file(name: str) -> str:
    if not (path := Path(name).resolve()).is_relative_to(Path.cwd()):
        raise ValueError(f"{name} is outside the folder")
    return path.read_text(encoding="utf-8")[:4000]


TOOLS = {  # what it is, what it needs, and the function
    "time": ("The date and time now.", [], lambda: f"{datetime.now():%A, %d %B %Y, %H:%M}"),
    "calculate": ("The value of an arithmetic expression.", ["expression"], calculate),
    "read_file": ("The text of one of the user's files.", ["name"], read_file),
    "done": ("Nothing. Call this as soon as no other tool is needed to answer.", [], None),
}


def described(name: str, description: str, parameters: list, _: object) -> dict:
    texts = {each: {"type": "string", "maxLength": 100} for each in parameters}
    schema = {"type": "object", "properties": texts, "required": parameters}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def call_tools(llm: Llama, messages: list) -> None:
    """Let the model call tools until it is done or repeats itself; add calls and results to ``messages``."""
    tools, calls = [described(name, *about) for name, about in TOOLS.items()], []
    while len(calls) < 5:
        # a grammar forces the form of the call, so models that were never trained to call tools can do it
        answer = llm.create_chat_completion(messages, tools=tools, tool_choice="required", temperature=0)
        message = answer["choices"][0]["message"]
        call = message["tool_calls"][0]["function"]
        if call["name"] == "done" or call in calls:
            break
        calls.append(call)
        try:
            result = TOOLS[call["name"]][-1](**json.loads(call["arguments"]))
        except (OSError, ValueError, SyntaxError, TypeError, ArithmeticError) as error:
            result = f"Error: {error}"  # from which the model can go on
        print(f"  {call['name']} {call['arguments']}: {result!r:.60}")
        messages += [message, {"role": "tool", "content": result}]


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat with an assistant that uses tools.")
    parser.add_argument("folder", nargs="?", default=".", help="whose files it may read (default: .)")
    parser.add_argument("-m", "--model", help="a model that writes text (default: SmolLM2-135M)")
    args = parser.parse_args()
    files = ", ".join(sorted(os.listdir(args.folder)))
    messages = [{"role": "system", "content": f"You can read these files: {files}. Answer briefly."}]
    with Llama(args.model or default_model()) as llm:
        os.chdir(args.folder)
        while question := input("> "):
            messages.append({"role": "user", "content": question})
            call_tools(llm, messages)
            messages.append(llm.create_chat_completion(messages, max_tokens=400)["choices"][0]["message"])
            print(messages[-1]["content"])


if __name__ == "__main__":
    with suppress(EOFError, KeyboardInterrupt):
        main()
