"""PaSS Edge against stock llama.cpp: passes, prompts, answers, loading and memory, on one page.

    python benchmarks/fetch_models.py MODELS/                       # gets or makes the models
    python benchmarks/stock.py measure MODELS/*.gguf          # adds to docs/benchmarks/MACHINE.json
    python benchmarks/stock.py report                         # docs/benchmarks.md, of all machines measured

Stock is llama_cpp.Llama with its defaults and llama.cpp's own kernels, in a process of its own. Both get the
same file, threads and prompt ids, and answer in turn. Texts differ now and then, because bits do; a rate is
over the tokens that were really made. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from answers import CONTEXT, code_questions, cpu_name, questions_by_category, rotated, table
from rich.progress import track

from pass_edge import Engine, Sampling, Settings
from pass_edge.convert.training.prompts import as_prompt
from pass_edge.native.devices import default_threads
from pass_edge.native.library import kernels
from pass_edge.native.stock import StockLlama, resident_bytes
from pass_edge.planning.cost_model import pass_times

DOCS = Path(__file__).parent.parent / "docs"
WIDTHS = (1, 2, 3, 4, 6, 8, 16, 32)
PROMPTS = (256, 1024, 4096, 7500)
DEPTH = 128
OURS: dict[str, dict[str, Any]] = {
    "plain": {"schedule": "plain"},
    "auto": {},
    "auto, no n-grams": {"ngrams": False},
}
Measured = dict[str, Any]


# -- measuring ----------------------------------------------------------------------------------------


def measure_passes(model: Path, threads: int, prompts: tuple[int, ...], rounds: int) -> Measured:
    """Milliseconds of a pass by its rows, tokens/s of reading prompts, seconds to load, MB in memory."""
    found: dict[str, list[Measured]] = {"stock": [], "ours": []}
    cells = max(CONTEXT, *(n + 64 for n in prompts))
    command = [sys.executable, __file__, "ours", str(model)]
    # the first time an engine measures the model, which is not loading it
    subprocess.run([*command, json.dumps([threads, cells, []])], capture_output=True, check=True)
    for _ in range(rounds):
        asked = [*command, json.dumps([threads, cells, prompts])]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        found["ours"].append(json.loads(done.stdout.splitlines()[-1]))
        with StockLlama(model, threads=threads, context_size=cells) as stock:
            told = {"load": stock.load_seconds, "memory": stock.resident / 1e6}
            told["pass 1"] = 1e3 * stock.pass_seconds(DEPTH)
            for n in prompts:
                answer = stock.answer([0] * n, max_tokens=1, temperature=0)
                told[f"prompt {n}"] = n / answer.prompt_seconds
            found["stock"].append(told)
    return {
        whose: {key: statistics.median(each[key] for each in several) for key in several[0]}
        for whose, several in found.items()
    }


def measure_ours(model: Path, threads: int, cells: int, prompts: tuple[int, ...]) -> Measured:
    """In this process, which has done nothing else."""
    began = time.perf_counter()
    engine = Engine(model, settings=Settings(threads=threads, context_size=cells))
    told: Measured = {"load": time.perf_counter() - began}
    with engine:
        engine.stream([0, 0], max_tokens=1).run()
        told["memory"] = resident_bytes() / 1e6
        context = engine.session._context
        engine.session.forget()
        engine.session.prefill([0] * (DEPTH + 1))
        widths = [n for n in WIDTHS if n <= engine.calibration.widest_step]
        seconds = pass_times(context, DEPTH, widths, in_a_row=2, repeats=8)
        told |= {f"pass {n}": 1e3 * float(s) for n, s in zip(widths, seconds, strict=True)}
        engine.session.forget()
        for n in prompts:
            began = time.perf_counter()
            engine.stream([0] * n, sampling=Sampling(temperature=0), max_tokens=1).run()
            told[f"prompt {n}"] = n / (time.perf_counter() - began)
            engine.session.forget()
    return told


def measure_answers(
    model: Path, threads: int, questions: int, code: int, tokens: int, temperature: float, names: list[str]
) -> list[Measured]:
    """For each question: its category, and each contender's tokens, passes, seconds of prompt and answer."""
    sampling = Sampling(temperature=temperature, seed=1)
    asked = [(c, q) for c, found in questions_by_category(questions).items() for q in found]
    asked += [("code", q) for q in code_questions(code)]
    engines = {
        name: Engine(model, settings=Settings(threads=threads, context_size=CONTEXT, **OURS[name]))
        for name in names
    }
    rows: list[Measured] = []
    with StockLlama(model, threads=threads, context_size=CONTEXT) as stock:

        def answer(name: str, ids: list[int]) -> Measured:
            if name == "stock":
                a = stock.answer(ids, max_tokens=tokens, temperature=temperature)
                return {
                    "tokens": len(a.ids),
                    "prompt": a.prompt_seconds,
                    "seconds": a.seconds,
                    "passes": len(a.ids) - 1,
                }
            began = time.perf_counter()
            stats = engines[name].stream(ids, sampling=sampling, max_tokens=tokens).run().stats
            whole = time.perf_counter() - began
            engines[name].session.forget()
            return {
                "tokens": stats.tokens,
                "prompt": whole - stats.seconds,
                "seconds": stats.seconds,
                "passes": stats.passes,
            }

        for turn, (category, question) in enumerate(track(asked, model.name)):
            ids = as_prompt(engines[names[0]], question)
            order = rotated(["stock", *names], turn)
            rows.append({"category": category} | {name: answer(name, ids) for name in order})
    for engine in engines.values():
        engine.close()
    return rows


# -- what it says ---------------------------------------------------------------------------------------


def rate(answer: Measured, whose: str) -> float:
    """Tokens a second of decoding. The first token of stock's is the prompt's, and none of ours is."""
    made = answer["tokens"] - (whose == "stock")
    return made / answer["seconds"] if made > 0 and answer["seconds"] else 0.0


def speed_ratio(row: Measured, name: str) -> float | None:
    """None where stock made a single token."""
    stock = rate(row["stock"], "stock")
    return rate(row[name], name) / stock if stock else None


def whole_ratio(row: Measured, name: str) -> float:
    """Of prompt and answer together, a token of each being worth the same where they made more or fewer."""
    stock, ours = row["stock"], row[name]
    slow = stock["prompt"] + stock["seconds"] / max(1, stock["tokens"] - 1) * (ours["tokens"] - 1)
    return slow / (ours["prompt"] + ours["seconds"])


def by_category(rows: list[Measured], name: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in rows:
        ratio = speed_ratio(row, name)
        if ratio is not None:
            found.setdefault(row["category"], []).append(ratio)
    return {category: statistics.mean(ratios) for category, ratios in found.items()}


def form(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def pass_row(name: str, measured: Measured) -> list[str]:
    stock, ours = measured["passes"]["stock"], measured["passes"]["ours"]
    cells = [f"{stock['pass 1']:.1f}"]
    cells += [form(ours[f"pass {n}"] / stock["pass 1"] if f"pass {n}" in ours else None) for n in WIDTHS]
    for n in PROMPTS:
        key = f"prompt {n}"
        cells.append(form(ours[key] / stock[key] if key in ours else None))
    return [name, *cells, form(ours["load"] / stock["load"]), form(ours["memory"] / stock["memory"])]


def answer_rows(name: str, measured: Measured) -> Iterator[list[str]]:
    for temperature, rows in measured.get("answers", {}).items():
        talk = [row for row in rows if row["category"] != "code"]
        code = [row for row in rows if row["category"] == "code"]
        for contender in OURS:
            if contender not in rows[0]:
                continue
            means = by_category(talk, contender)
            ratios = [r for row in rows if (r := speed_ratio(row, contender)) is not None]
            tokens = sum(row[contender]["tokens"] for row in talk)
            passes = sum(row[contender]["passes"] for row in talk)
            coded = by_category(code, contender).get("code")
            yield [
                f"{name}, {contender}" + (f", temperature {temperature}" if float(temperature) else ""),
                form(statistics.mean(means.values())),
                form(coded),
                form(min([*means.values(), *([coded] if coded else [])])),
                form(min(ratios)),
                form(statistics.mean(whole_ratio(row, contender) for row in rows)),
                form(tokens / passes),
            ]


def page(machines: dict[str, Measured]) -> str:
    """docs/benchmarks.md, all but its first lines."""
    parts = []
    for machine, found in machines.items():
        models = found["models"]
        head = [
            "model",
            "stock, ms",
            *(f"T({n})" for n in WIDTHS),
            *(f"prompt {n:,}" for n in PROMPTS),
            "load",
            "memory",
        ]
        parts.append(f"## {machine}\n\n{found['about']}\n\n### Passes, prompts, loading\n\n{_PASSES}\n")
        parts.append(table(head, [pass_row(n, m) for n, m in models.items() if "passes" in m]) + "\n")
        head = [
            "model",
            "Spec-Bench",
            "code",
            "worst category",
            "worst question",
            "prompt and answer",
            "tokens/pass",
        ]
        rows = [row for name, measured in models.items() for row in answer_rows(name, measured)]
        parts.append(f"### Answers\n\n{_ANSWERS}\n\n{table(head, rows)}\n")
        greedy = {n: m["answers"]["0.0"] for n, m in models.items() if "0.0" in m.get("answers", {})}
        if greedy:
            categories = list(dict.fromkeys(row["category"] for rows in greedy.values() for row in rows))
            means = {name: by_category(rows, "auto") for name, rows in greedy.items()}
            lines = [[c, *(form(means[name].get(c)) for name in greedy)] for c in categories]
            parts.append(f"### By category, `auto`, greedy\n\n{table(['category', *greedy], lines)}\n")
    return "\n".join(parts)


_PASSES = """T(n) is a pass over n rows behind 128 tokens, in units of stock's pass over one (its milliseconds
stand beside it); less than 1 is faster. Prompts: tokens a second of reading them, ratio to stock's. Load
and memory: ratios to stock's, so less than 1 is less."""
_ANSWERS = """Tokens a second to stock's on the same questions: means over the categories of Spec-Bench's dev
half and over code questions (functions to complete); the worst category and question; prompt and answer
together."""


# -- commands -------------------------------------------------------------------------------------------


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("settings")
def ours(model: Path, settings: str) -> None:
    """One engine's passes, in this process, as JSON."""
    threads, cells, prompts = json.loads(settings)
    click.echo(json.dumps(measure_ours(model, threads, cells, tuple(prompts))))


@main.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--questions", default=1, show_default=True, help="From each of 13 categories; 0 for no answers."
)
@click.option("--code", default=4, show_default=True, help="Code questions.")
@click.option("--tokens", default=128, show_default=True, help="Of an answer, at most.")
@click.option("--temp", default=0.0, show_default=True)
@click.option("--contender", "names", multiple=True, type=click.Choice(list(OURS)), default=("plain", "auto"))
@click.option("--rounds", default=2, show_default=True, help="Of passes and prompts; 0 for none.")
@click.option("--longest", default=4096, show_default=True, help="Prompt that is read.")
@click.option("--threads", default=default_threads(), show_default=True)
def measure(
    models: tuple[Path, ...],
    questions: int,
    code: int,
    tokens: int,
    temp: float,
    names: tuple[str, ...],
    rounds: int,
    longest: int,
    threads: int,
) -> None:
    """Measure MODELS, and add what was found to this machine's file."""
    machine = f"{cpu_name()}, {kernels() or 'llama.cpp’s kernels'}"
    path = DOCS / "benchmarks" / f"{machine.split(', ')[1].lower().replace(' ', '-')}.json"
    path.parent.mkdir(exist_ok=True)
    for model in models:
        known = json.loads(path.read_text()) if path.exists() else {"models": {}}
        known |= {"machine": machine, "about": f"{threads} threads; answers of up to {tokens} tokens."}
        entry = known["models"].setdefault(model.name.removesuffix(".gguf"), {})
        if rounds:
            prompts = tuple(n for n in PROMPTS if n <= longest)
            entry["passes"] = measure_passes(model, threads, prompts, rounds)
        if questions:
            answers = measure_answers(model, threads, questions, code, tokens, temp, list(names))
            entry.setdefault("answers", {})[str(temp)] = answers
        path.write_text(json.dumps(known, indent=1) + "\n")
        click.echo("\n".join(" | ".join(row) for row in ([pass_row(model.name, entry)] if rounds else [])))
        click.echo("\n".join(" | ".join(row) for row in answer_rows(model.name, entry)))


@main.command()
def report() -> None:
    """Write docs/benchmarks.md, below the line that says so, from what was measured on all machines."""
    target = DOCS / "benchmarks.md"
    found = {}
    for path in sorted((DOCS / "benchmarks").glob("*.json")):
        told = json.loads(path.read_text())
        found[told["machine"]] = told
    text = target.read_text()
    mark = "<!-- below: python benchmarks/stock.py report -->\n"
    target.write_text(text[: text.index(mark) + len(mark)] + "\n" + page(found))


if __name__ == "__main__":
    main()
