"""Compare constrained answers: ten JSON schemas, stock llama.cpp and our engine with and without drafts.

    python benchmarks/structured.py MODEL.gguf [--rounds 3] [--max-tokens 200]

Stock is llama_cpp.Llama with the grammar that it makes of a schema. All contenders answer the same prompts
in turn, greedily. The two grammars differ in where white space may stand, so texts and lengths differ: beside
the rates, the table has the seconds of a whole answer, and how many answers match their schema by jsonschema.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import jsonschema
from answers import table, table_row

from pass_edge import Engine, Sampling, Settings
from pass_edge.native.constraint import schema_grammar
from pass_edge.native.devices import default_threads
from pass_edge.native.stock_llama import StockLlama

SCHEMAS = Path(__file__).parent / "prompts" / "schemas.json"
ANY_TEXT = "%llguidance {}\nstart: /(.|\\n)*/"
CONTEXT = 2048
Rates = dict[str, list[float]]


def measure(engines: dict[str, Engine], stock: StockLlama, case: dict[str, Any], n: int) -> dict[str, Any]:
    """Answer one question with every contender. Return for each its tokens/s, its seconds (None if the answer
    was cut off), its tokens a pass, and whether the answer matches the schema."""
    plain, grammar = engines["plain"], schema_grammar(case["schema"])
    question = f"{case['question']} Answer with JSON that has the keys {', '.join(_keys(case['schema']))}."
    prompt = plain.render([{"role": "user", "content": question}])
    stock_answer = stock.answer(prompt, max_tokens=n, temperature=0, json_schema=json.dumps(case["schema"]))
    ids = stock_answer.ids
    measured = {
        "stock": {
            "rate": stock_answer.tokens_per_second,
            "seconds": stock_answer.seconds if len(ids) < n else None,
            "is_valid": _is_valid(stock.detokenize(ids), case["schema"]),
        }
    }
    for name, engine, text_grammar in (
        ("plain", plain, grammar),
        ("auto", engines["auto"], grammar),
        ("free", plain, ""),
        ("any text", plain, ANY_TEXT),
    ):
        engine.session.forget()
        sampling = Sampling(temperature=0, grammar=text_grammar)
        generation = engine.stream(prompt, sampling=sampling, max_tokens=n)
        start, first = time.perf_counter(), 0.0
        for _ in generation.pieces():
            first = first or time.perf_counter()
        stats = generation.stats
        measured[name] = {
            "rate": stats.tokens_per_second,
            "seconds": time.perf_counter() - start - stats.prompt_seconds
            if generation.finish_reason == "stop"
            else None,
            "passes": stats.passes,
            "tokens": stats.tokens,
            "is_valid": _is_valid(generation.text, case["schema"]),
        }
    return measured


def _keys(schema: dict[str, Any]) -> list[str]:
    return list(schema.get("properties") or schema["items"]["properties"])


def _is_valid(text: str, schema: dict[str, Any]) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=3, show_default=True)
@click.option("--max-tokens", default=200, show_default=True)
@click.option("--threads", type=int, help="[default: all]")
def main(model: Path, rounds: int, max_tokens: int, threads: int | None) -> None:
    """Print the table for MODEL, row by row."""
    threads = threads or default_threads()
    cases = json.loads(SCHEMAS.read_text())
    settings = {
        name: Settings(schedule=name, threads=threads, context_size=CONTEXT) for name in ("plain", "auto")
    }
    ratios: Rates = {"plain": [], "auto": [], "seconds": [], "any text": []}
    n_valid: Counter[str] = Counter()
    with (
        Engine(model, settings=settings["plain"]) as plain,
        Engine(model, settings=settings["auto"]) as auto,
        StockLlama(model, threads=threads, context_size=CONTEXT) as stock,
    ):
        engines = {"plain": plain, "auto": auto}
        measure(engines, stock, cases[0], max_tokens // 8)  # warms up
        click.echo(table(["schema", "stock, tokens/s", "plain", "auto", "tokens/pass", "whole answer"], []))
        for case in cases:
            measured = [measure(engines, stock, case, max_tokens) for _ in range(rounds)]
            n_valid.update(name for one in measured for name, each in one.items() if each["is_valid"])
            click.echo(table_row([case["name"], *_row(measured, ratios)]))
    means = {name: f"{statistics.mean(values):.2f}" for name, values in ratios.items() if values}
    click.echo(table_row(["mean", "", means["plain"], means["auto"], "", means.get("seconds", "–")]))
    click.echo(f"a grammar that forces nothing: {means['any text']} of the speed without one")
    for name in ("stock", "plain", "auto"):
        click.echo(f"{name}: {n_valid[name]} of {len(cases) * rounds} answers match their schema")


def _row(measured: list[dict[str, Any]], ratios: Rates) -> list[str]:
    """Return the figures of one schema, and add its ratios to ``ratios``."""
    rate = {
        name: statistics.median(one[name]["rate"] for one in measured)
        for name in ("stock", "plain", "auto", "free", "any text")
    }
    for name, base in (("plain", "stock"), ("auto", "stock"), ("any text", "free")):
        ratios[name].append(rate[name] / rate[base])
    seconds = {name: [one[name]["seconds"] for one in measured] for name in ("stock", "auto")}
    is_whole = None not in (*seconds["stock"], *seconds["auto"])
    if is_whole:
        ratios["seconds"].append(statistics.median(seconds["stock"]) / statistics.median(seconds["auto"]))
    drafted = measured[0]["auto"]
    return [
        f"{rate['stock']:.1f}",
        f"{ratios['plain'][-1]:.2f}",
        f"{ratios['auto'][-1]:.2f}",
        f"{drafted['tokens'] / drafted['passes']:.2f}",
        f"{ratios['seconds'][-1]:.2f}" if is_whole else "–",
    ]


if __name__ == "__main__":
    main()
