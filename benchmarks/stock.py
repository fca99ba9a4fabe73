"""Compare PaSS Edge with stock llama.cpp: passes, prompts, answers, loading and memory, on one page.

    python benchmarks/fetch_models.py MODELS/           # fetches or makes the models
    python benchmarks/stock.py measure MODELS/*.gguf    # adds to docs/benchmarks/MACHINE.json
    python benchmarks/stock.py report                   # writes docs/benchmarks.md, of all measured machines

Stock is llama_cpp.Llama with its defaults and llama.cpp's own kernels, in a process of its own. Both get the
same file, threads and prompt ids, and answer in turn. Texts sometimes differ, because bits do; a rate counts
the tokens actually generated. Run nothing else on the machine meanwhile.
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
from rich.console import Console
from rich.progress import track

from pass_edge import Engine, Sampling, Settings
from pass_edge.convert.training.prompts import encode_prompt
from pass_edge.native.devices import default_threads
from pass_edge.native.library import kernels
from pass_edge.native.process_memory import resident_bytes
from pass_edge.native.stock_llama import StockLlama
from pass_edge.planning.pass_times import pass_times

DOCS = Path(__file__).parent.parent / "docs"
WIDTHS = (1, 2, 3, 4, 6, 8, 16, 32)
PROMPTS = (256, 1024, 4096, 7500)
DEPTH = 128
DEEP, DEEP_WIDTHS = 4096, (1, 8)
"""Where prompts as long are measured, passes after so many tokens are too."""
OURS: dict[str, dict[str, Any]] = {
    "plain": {"schedule": "plain"},
    "auto": {},
    "auto, no n-grams": {"ngrams": False},
    "auto, n-grams alone": {"lookahead": None},
    "auto, draft model": {},  # --draft-model names it
}
Measured = dict[str, Any]


# -- measuring ----------------------------------------------------------------------------------------


def measure_passes(model: Path, threads: int, prompts: tuple[int, ...], rounds: int) -> Measured:
    """Return medians for "stock" and "ours": milliseconds of a pass by its rows, tokens/s of processing
    prompts, seconds to load, MB of memory."""
    rounds_of: dict[str, list[Measured]] = {"stock": [], "ours": []}
    cells = max(CONTEXT, *(n + 64 for n in prompts))
    command = [sys.executable, __file__, "ours", str(model)]
    # the first engine calibrates the model, which does not count as loading
    subprocess.run([*command, json.dumps([threads, cells, []])], capture_output=True, check=True)
    for _ in range(rounds):
        measuring = [*command, json.dumps([threads, cells, prompts])]
        done = subprocess.run(measuring, capture_output=True, text=True, check=True)
        rounds_of["ours"].append(json.loads(done.stdout.splitlines()[-1]))
        with StockLlama(model, threads=threads, context_size=cells) as stock:
            measured = {"load": stock.load_seconds, "memory": stock.resident / 1e6}
            measured["pass 1"] = 1e3 * stock.pass_seconds(DEPTH)
            for n in prompts:
                answer = stock.answer([0] * n, max_tokens=1, temperature=0)
                measured[f"prompt {n}"] = n / answer.prompt_seconds
            if DEEP in prompts:
                measured["deep pass 1"] = 1e3 * stock.pass_seconds(DEEP)
            rounds_of["stock"].append(measured)
    return {
        contender: {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        for contender, measured in rounds_of.items()
    }


def measure_ours(model: Path, threads: int, cells: int, prompts: tuple[int, ...]) -> Measured:
    """Measure our engine in this process, which must be new."""
    start = time.perf_counter()
    engine = Engine(model, settings=Settings(threads=threads, context_size=cells))
    measured: Measured = {"load": time.perf_counter() - start}
    with engine:
        engine.stream([0, 0], max_tokens=1).run()
        measured["memory"] = resident_bytes() / 1e6
        measured |= own_passes(engine, DEPTH, WIDTHS, "pass")
        if DEEP in prompts:
            measured |= own_passes(engine, DEEP, DEEP_WIDTHS, "deep pass")
        for n in prompts:
            start = time.perf_counter()
            engine.stream([0] * n, sampling=Sampling(temperature=0), max_tokens=1).run()
            measured[f"prompt {n}"] = n / (time.perf_counter() - start)
            engine.session.forget()
    return measured


def own_passes(engine: Engine, depth: int, widths: tuple[int, ...], name: str) -> Measured:
    """Return the milliseconds of passes after ``depth`` tokens, by ``name`` and rows."""
    engine.session.forget()
    engine.session.prefill([0] * (depth + 1))
    possible = [n for n in widths if n <= engine.calibration.widest_step]
    seconds = pass_times(engine.session._context, depth, possible, in_a_row=2, repeats=8)
    engine.session.forget()
    return {f"{name} {n}": 1e3 * float(s) for n, s in zip(possible, seconds, strict=True)}


def open_ours(model: Path, threads: int, *, lookahead: str | None = "auto", **settings: Any) -> Engine:
    """Open a contender; ``settings``: what differs from the defaults."""
    chosen = Settings(threads=threads, context_size=CONTEXT, **settings)
    return Engine(model, lookahead=lookahead, settings=chosen)


def measure_answers(
    model: Path,
    threads: int,
    questions: int,
    code: int,
    tokens: int,
    temperature: float,
    names: list[str],
    draft_model: Path | None,
) -> list[Measured]:
    """Return each question's category, and each contender's tokens, passes and seconds of prompt and
    answer."""
    sampling = Sampling(temperature=temperature, seed=1)
    prompts = [(c, q) for c, in_category in questions_by_category(questions).items() for q in in_category]
    prompts += [("code", q) for q in code_questions(code)]
    options = OURS | {"auto, draft model": {"draft_model": draft_model}}
    engines = {name: open_ours(model, threads, **options[name]) for name in names}
    rows: list[Measured] = []
    with StockLlama(model, threads=threads, context_size=CONTEXT) as stock:

        def answer(name: str, ids: list[int]) -> Measured:
            if name == "stock":
                reply = stock.answer(ids, max_tokens=tokens, temperature=temperature)
                return {
                    "tokens": len(reply.ids),
                    "prompt": reply.prompt_seconds,
                    "seconds": reply.seconds,
                    "passes": len(reply.ids) - 1,
                }
            start = time.perf_counter()
            stats = engines[name].stream(ids, sampling=sampling, max_tokens=tokens).run().stats
            total = time.perf_counter() - start
            engines[name].session.forget()
            return {
                "tokens": stats.tokens,
                "prompt": total - stats.seconds,
                "seconds": stats.seconds,
                "passes": stats.passes,
            }

        for turn, (category, question) in enumerate(track(prompts, model.name, console=Console(stderr=True))):
            ids = encode_prompt(engines[names[0]], question)
            order = rotated(["stock", *names], turn)
            rows.append({"category": category} | {name: answer(name, ids) for name in order})
    for engine in engines.values():
        engine.close()
    return rows


# -- the report -----------------------------------------------------------------------------------------


def rate(answer: Measured, contender: str) -> float:
    """Return the decoded tokens per second. Stock's first token belongs to the prompt, ours does not."""
    decoded = answer["tokens"] - (contender == "stock")
    return decoded / answer["seconds"] if decoded > 0 and answer["seconds"] else 0.0


def speed_ratio(row: Measured, name: str) -> float | None:
    """Return the ratio of decoding speeds; None if stock generated a single token."""
    stock = rate(row["stock"], "stock")
    return rate(row[name], name) / stock if stock else None


def total_ratio(row: Measured, name: str) -> float:
    """Return the ratio of speeds over prompt and answer together, with stock's time scaled to our answer's
    length."""
    stock, ours = row["stock"], row[name]
    slow = stock["prompt"] + stock["seconds"] / max(1, stock["tokens"] - 1) * (ours["tokens"] - 1)
    return slow / (ours["prompt"] + ours["seconds"])


def by_category(rows: list[Measured], name: str) -> dict[str, float]:
    """Return the mean speed ratio of each category."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        ratio = speed_ratio(row, name)
        if ratio is not None:
            ratios.setdefault(row["category"], []).append(ratio)
    return {category: statistics.mean(values) for category, values in ratios.items()}


def two_decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def pass_row(name: str, measured: Measured) -> list[str]:
    stock, ours = measured["passes"]["stock"], measured["passes"]["ours"]
    cells = [f"{stock['pass 1']:.1f}"]
    for kind, widths in (("pass", WIDTHS), ("deep pass", DEEP_WIDTHS)):
        keys = [f"{kind} {n}" for n in widths]
        cells += [two_decimals(ours[key] / stock[f"{kind} 1"] if key in ours else None) for key in keys]
    for n in PROMPTS:
        key = f"prompt {n}"
        cells.append(two_decimals(ours[key] / stock[key] if key in ours else None))
    return [
        name,
        *cells,
        two_decimals(ours["load"] / stock["load"]),
        two_decimals(ours["memory"] / stock["memory"]),
    ]


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
                two_decimals(statistics.mean(means.values())),
                two_decimals(coded),
                two_decimals(min([*means.values(), *([coded] if coded else [])])),
                two_decimals(min(ratios)),
                two_decimals(statistics.mean(total_ratio(row, contender) for row in rows)),
                two_decimals(tokens / passes),
            ]


def page(machines: dict[str, Measured]) -> str:
    """Return docs/benchmarks.md without its introduction."""
    parts = []
    for machine, measured_here in machines.items():
        models = measured_here["models"]
        head = [
            "model",
            "stock, ms",
            *(f"T({n})" for n in WIDTHS),
            *(f"deep T({n})" for n in DEEP_WIDTHS),
            *(f"prompt {n:,}" for n in PROMPTS),
            "load",
            "memory",
        ]
        parts.append(f"## {machine}\n\n{measured_here['about']}\n\n### Passes, prompts, loading\n")
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
        parts.append(f"### Answers\n\n{table(head, rows)}\n")
    return "\n".join(parts)


# -- commands -------------------------------------------------------------------------------------------


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("settings")
def ours(model: Path, settings: str) -> None:
    """Measure our engine's passes in this process, and print JSON (used by measure)."""
    threads, cells, prompts = json.loads(settings)
    click.echo(json.dumps(measure_ours(model, threads, cells, tuple(prompts))))


@main.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--questions", default=1, show_default=True, help="From each of 13 categories; 0 for no answers."
)
@click.option("--code", default=4, show_default=True, help="Code questions.")
@click.option("--tokens", default=128, show_default=True, help="Most tokens of an answer.")
@click.option("--temp", default=0.0, show_default=True)
@click.option("--contender", "names", multiple=True, type=click.Choice(list(OURS)), default=("plain", "auto"))
@click.option(
    "--draft-model", type=click.Path(exists=True, path_type=Path), help="For the contender of that name."
)
@click.option("--rounds", default=2, show_default=True, help="Rounds of passes and prompts; 0 for none.")
@click.option("--longest", default=4096, show_default=True, help="Longest prompt to measure.")
@click.option("--threads", default=default_threads(), show_default=True)
def measure(
    models: tuple[Path, ...],
    questions: int,
    code: int,
    tokens: int,
    temp: float,
    names: tuple[str, ...],
    draft_model: Path | None,
    rounds: int,
    longest: int,
    threads: int,
) -> None:
    """Measure MODELS, and add the results to this machine's file."""
    machine = f"{cpu_name()}, {kernels() or 'llama.cpp’s kernels'}"
    path = DOCS / "benchmarks" / f"{machine.split(', ')[1].lower().replace(' ', '-')}.json"
    path.parent.mkdir(exist_ok=True)
    for model in models:
        results = json.loads(path.read_text()) if path.exists() else {"models": {}}
        results |= {"machine": machine, "about": f"{threads} threads; answers of up to {tokens} tokens."}
        entry = results["models"].setdefault(model.name.removesuffix(".gguf"), {})
        if rounds:
            prompts = tuple(n for n in PROMPTS if n <= longest)
            entry["passes"] = measure_passes(model, threads, prompts, rounds)
        if questions:
            answers = measure_answers(model, threads, questions, code, tokens, temp, list(names), draft_model)
            entry.setdefault("answers", {})[str(temp)] = answers
        path.write_text(json.dumps(results, indent=1) + "\n")
        click.echo("\n".join(" | ".join(row) for row in ([pass_row(model.name, entry)] if rounds else [])))
        click.echo("\n".join(" | ".join(row) for row in answer_rows(model.name, entry)))


@main.command()
def report() -> None:
    """Write docs/benchmarks.md, below its marker line, from the results of all machines."""
    target = DOCS / "benchmarks.md"
    machines = {}
    for path in sorted((DOCS / "benchmarks").glob("*.json")):
        results = json.loads(path.read_text())
        machines[results["machine"]] = results
    text = target.read_text()
    mark = "<!-- below: python benchmarks/stock.py report -->\n"
    target.write_text(text[: text.index(mark) + len(mark)] + "\n" + page(machines))


if __name__ == "__main__":
    main()
