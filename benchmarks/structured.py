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
from pathlib import Path
from typing import Any

import click
import jsonschema
from answers import table

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
    """Print the table for MODEL."""
    threads = threads or default_threads()
    cases = json.loads(SCHEMAS.read_text())
    settings = {
        name: Settings(schedule=name, threads=threads, context_size=CONTEXT) for name in ("plain", "auto")
    }
    with (
        Engine(model, settings=settings["plain"]) as plain,
        Engine(model, settings=settings["auto"]) as auto,
        StockLlama(model, threads=threads, context_size=CONTEXT) as stock,
    ):
        engines = {"plain": plain, "auto": auto}
        measure(engines, stock, cases[0], max_tokens)  # warms up
        results = {
            case["name"]: [measure(engines, stock, case, max_tokens) for _ in range(rounds)] for case in cases
        }
    rows: list[list[str]] = []
    ratios: Rates = {"plain": [], "auto": [], "seconds": [], "overhead": []}
    for name, measured in results.items():
        rate = {
            each: statistics.median(one[each]["rate"] for one in measured)
            for each in ("stock", "plain", "auto", "free", "any text")
        }
        auto = measured[0]["auto"]
        seconds = {
            each: statistics.median(one[each]["seconds"] for one in measured)
            for each in ("stock", "auto")
            if measured[0][each]["seconds"] is not None
        }
        ratios["plain"].append(rate["plain"] / rate["stock"])
        ratios["auto"].append(rate["auto"] / rate["stock"])
        ratios["overhead"].append(rate["any text"] / rate["free"])
        if len(seconds) == 2:
            ratios["seconds"].append(seconds["stock"] / seconds["auto"])
        rows.append(
            [
                name,
                f"{rate['stock']:.1f}",
                f"{ratios['plain'][-1]:.2f}",
                f"{ratios['auto'][-1]:.2f}",
                f"{auto['tokens'] / auto['passes']:.2f}",
                f"{seconds['stock'] / seconds['auto']:.2f}" if len(seconds) == 2 else "–",
            ]
        )
    means = {name: statistics.mean(values) for name, values in ratios.items() if values}
    rows.append(
        ["mean", "", f"{means['plain']:.2f}", f"{means['auto']:.2f}", "", f"{means.get('seconds', 0):.2f}"]
    )
    headings = ["schema", "stock, tokens/s", "plain", "auto", "tokens/pass", "whole answer"]
    click.echo(table(headings, rows))
    for each in ("stock", "plain", "auto"):
        n_valid = sum(one[each]["is_valid"] for measured in results.values() for one in measured)
        click.echo(f"{each}: {n_valid} of {len(cases) * rounds} answers match their schema")
    click.echo(f"a grammar that forces nothing: {means['overhead']:.3f} of the speed without one")


if __name__ == "__main__":
    main()
