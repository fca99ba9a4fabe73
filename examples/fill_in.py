"""Fill in code at the cursor, for an editor: print what belongs between the text before and after it.

The model must have been trained to fill in, as Qwen2.5-Coder was.

    python examples/fill_in.py app.py 12:8 -m qwen2.5-coder-1.5b.gguf
    python examples/fill_in.py - 12:8 -m qwen2.5-coder-1.5b.gguf <app.py      # the text of an unsaved file
"""

import argparse
import sys
from pathlib import Path

from pass_edge import Llama, PassEdgeError, default_model

BEFORE, AFTER = 6000, 2000  # characters around the cursor that the model sees


def cursor(text: str) -> tuple[int, int]:
    """Parse LINE:COLUMN, counted from 1 and from 0, as in Emacs and Vim's ruler."""
    line, column = map(int, text.split(":"))
    if line < 1 or column < 0:
        raise ValueError
    return line, column


def split_at(text: str, line: int, column: int) -> tuple[str, str]:
    """Return the text before and after the cursor. A cursor behind a line's end is at its end."""
    lines = text.splitlines(keepends=True)
    before = "".join(lines[: line - 1])
    current = lines[line - 1].rstrip("\r\n") if line <= len(lines) else ""
    place = len(before) + min(column, len(current))
    return text[:place], text[place:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what belongs at a cursor's place in a file.")
    parser.add_argument("file", help="the file, or - for standard input")
    parser.add_argument("cursor", type=cursor, metavar="LINE:COLUMN", help="counted from 1 and from 0")
    parser.add_argument(
        "-m", "--model", help="a model that can fill in (default: SmolLM2-135M, which cannot)"
    )
    parser.add_argument("-n", "--max-tokens", type=int, default=64, help="most tokens to fill in")
    args = parser.parse_args()
    text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    before, after = split_at(text, *args.cursor)
    with Llama(args.model or default_model()) as llm:
        chunks = llm.create_completion(
            before[-BEFORE:],
            suffix=after[:AFTER] or "\n",  # an empty suffix would ask for the end of the file
            max_tokens=args.max_tokens,
            temperature=0,
            stream=True,
        )
        for chunk in chunks:
            print(chunk["choices"][0]["text"], end="", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (OSError, PassEdgeError) as error:
        sys.exit(f"Error: {error}")
