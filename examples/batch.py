"""Answer a prompt for each row of a CSV file, several at once; the answers become a new column of the file.

Rows that have an answer are skipped, so a run that was stopped (Ctrl-C) goes on where it was.

    python examples/batch.py reviews.csv "Translate into French: {text}" --column french -m model.gguf
"""

import argparse
import asyncio
import csv
import os
import sys
from pathlib import Path

from rich.progress import track

from pass_edge import ContextFullError, Engine, Sampling, Settings, default_model


def save(path: Path, rows: list[dict[str, str]]) -> None:
    """Write ``rows``. The file has all of its old content or all of the new one, whenever this is stopped."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


async def answer_all(engine: Engine, rows: list[dict[str, str]], args: argparse.Namespace) -> None:
    """Fill in the column of the rows that lack it, and save them every few seconds."""
    todo = [row for row in rows if not row[args.column]]
    shared = iter(track(todo, "answering"))

    async def work() -> None:
        for row in shared:  # each worker takes the next one that nobody has
            messages = [{"role": "user", "content": args.prompt.format_map(row)}]
            try:
                answer = engine.chat(messages, sampling=Sampling(temperature=0), max_tokens=args.max_tokens)
                row[args.column] = "".join([text async for text in answer])
            except ContextFullError as error:
                print(f"A row is left out: {error}", file=sys.stderr)

    async def keep_saving() -> None:
        while True:
            await asyncio.sleep(5)
            save(args.file, rows)

    saving = asyncio.create_task(keep_saving())
    await asyncio.gather(*(work() for _ in range(engine.parallel)))
    saving.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a prompt for each row of a CSV file.")
    parser.add_argument("file", type=Path, help="a CSV file whose first line names its columns")
    parser.add_argument("prompt", help="the prompt; {name} stands for the value in that column")
    parser.add_argument("-m", "--model", help="a model that writes text (default: SmolLM2-135M)")
    parser.add_argument("-c", "--column", default="answer", help="the column to fill in (default: answer)")
    parser.add_argument("-n", "--max-tokens", type=int, default=256, help="(default: 256)")
    parser.add_argument("-p", "--parallel", type=int, default=4, help="rows answered at once (default: 4)")
    args = parser.parse_args()
    with args.file.open(encoding="utf-8-sig", newline="") as file:
        rows = [{**row, args.column: row.get(args.column, "")} for row in csv.DictReader(file, restval="")]
    if not rows:
        parser.error(f"{args.file} has no rows")
    save(args.file, rows)  # if it cannot be written, that is better known now
    with Engine(args.model or default_model(), settings=Settings(parallel=args.parallel)) as engine:
        try:
            asyncio.run(answer_all(engine, rows, args))
        finally:
            save(args.file, rows)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
