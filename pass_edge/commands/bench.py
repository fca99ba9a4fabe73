"""pass-edge bench: what PaSS Edge gains on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from pass_edge import Engine, LibraryError, OutputError, Sampling, SettingsError
from pass_edge.commands.terminal.output import INTERRUPTED, console, flag_interrupts, quiet, stage_progress
from pass_edge.native.devices import default_threads
from pass_edge.native.model_path import readable
from pass_edge.native.output_file import check_output_path
from pass_edge.native.stock_llama import StockLlama

from .bench_comparison import Comparison, CostCurve, Pair, compare
from .engine_options import machine_options, model_argument, open_engine, parse_seed
from .model_files import file_of

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_PROMPTS = (
    "Why do leaves turn red in autumn?",
    "Write a short, polite e-mail to my landlord: the heating in my flat has been cold since Sunday.",
    "List five things to pack for a weekend in the mountains, each with a reason.",
    "Write a Python function that counts how often each word occurs in a text, with an example.",
    "A train leaves at 9:40 and arrives at 13:05, with a stop of 20 minutes. How long is the ride? Explain.",
    (
        "Repeat this text without its mistakes: Yesterday me and my sister goes to the market. We buyed "
        "apples, pears and a bread, but we forget the milk, so we was going back in the afternoon."
    ),
    (
        "Sum up in one sentence: The library on Mill Road will close for repairs on 3 May. Books can be "
        "returned at the town hall until it opens again in August. Loans that end in the meantime are "
        "prolonged, and the reading group meets in the school."
    ),
    "Tell me a story about a lighthouse keeper who finds a letter in a bottle.",
)
_COLUMNS = {
    "stock_tokens_per_second": ("stock\nt/s", "{:.1f}"),
    "plain_tokens_per_second": ("plain\nt/s", "{:.1f}"),
    "auto_tokens_per_second": ("auto\nt/s", "{:.1f}"),
    "stock_ratio": ("to\nstock", "{:.2f}"),
    "ratio": ("to\nplain", "{:.2f}"),
    "tokens_per_pass": ("tokens\n/pass", "{:.2f}"),
    "accepted_share": ("accep-\nted", "{:.0%}"),
}
_PROMPT_WIDTH = 16  # makes lines of 80 characters


@click.command()
@model_argument
@click.option(
    "--prompts",
    "source",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your own prompts: a text file with one a line, or a .jsonl file of strings or of objects with "
    "`turns` or `prompt`. [default: eight everyday prompts]",
)
@click.option(
    "--n-predict",
    "-n",
    "--tokens",
    "tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Most tokens of an answer.",
)
@click.option(
    "--temp", default=0.0, show_default=True, help="Temperature; 0 always takes the likeliest token."
)
@click.option(
    "--seed",
    "-s",
    type=parse_seed,
    metavar="INTEGER",
    default=0,
    show_default=True,
    help="Seed of the random choices; -1 draws one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Also plot the measurements (.png, .svg or .pdf).",
)
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the report as one HTML file.",
)
@click.option("--force", is_flag=True, help="Overwrite the plot and the report if they exist.")
@machine_options
def bench(
    model: str | None,
    source: Path | None,
    tokens: int,
    temp: float,
    seed: int,
    as_json: bool,
    plot: Path | None,
    page: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Measure what PaSS Edge gains over stock llama.cpp on this machine.

    With MODEL, three answer each prompt in turn: llama_cpp.Llama with its defaults and llama.cpp's kernels,
    in another process (stock); our plain decoding (plain); our default schedule (auto). The texts of plain
    and auto are compared token for token. For reliable figures, run nothing else meanwhile. Ctrl-C ends the
    measurement and reports the prompts that are done.

    \b
    pass-edge bench
    pass-edge bench model.gguf --prompts questions.txt -n 256 --plot bench.png

    t/s is tokens per second; a ratio above 1 is a gain. It comes from tokens per pass, which the accepted
    share of drafts raises. The second table shows what a pass costs: where four rows cost little more than
    one, even unlikely drafts pay.
    """
    sampling = Sampling(temperature=temp, seed=seed)
    _check_plot(plot, force)
    if page:
        check_output_path(page, force)
    prompts = _prompts(source)
    options["model"] = file_of(model)
    with (
        open_engine(options | {"schedule": "plain"}) as plain,
        open_engine(options) as auto,
        _stock(auto) as stock,
    ):
        comparison = _measure(plain, auto, stock, prompts, sampling, tokens)
        about = _about(auto, sampling, tokens)
    interrupted = len(comparison.pairs) < len(prompts)
    report = _report(about, prompts, comparison, interrupted)
    if as_json:
        click.echo(json.dumps(report))
    else:
        _print_tables(about, prompts, comparison)
    if plot:
        from pass_edge.convert.bench_plot import plot_comparison

        speeds = {
            name: [prompt[f"{name}_tokens_per_second"] for prompt in report["prompts"]]
            for name in ("stock", "plain", "auto")
        }
        plot_comparison(plot, _headline(about), comparison.curve, speeds)
        quiet(f"the plot is in {plot}")
    if page:
        _write_html(page, about, report, comparison)
        quiet(f"the report is in {page}")
    if interrupted:
        quiet(f"Interrupted after {len(comparison.pairs)} of {len(prompts)} prompts.")
        raise SystemExit(INTERRUPTED)


def _check_plot(plot: Path | None, force: bool) -> None:
    """Raise SettingsError or OutputError if ``plot`` cannot be written, before minutes of measuring."""
    if plot is None:
        return
    if not find_spec("matplotlib"):
        raise SettingsError("a plot needs matplotlib, which is not installed: pip install 'pass-edge[train]'")
    from pass_edge.convert.bench_plot import FORMATS

    if plot.suffix.lower() not in FORMATS:
        raise SettingsError(f"cannot plot to {plot.name}; its name must end in {', '.join(FORMATS)}")
    check_output_path(plot, force)


def _prompts(source: Path | None) -> Sequence[str]:
    from pass_edge.convert.training.prompts import read_prompts

    return tuple(read_prompts(source)) if source else DEFAULT_PROMPTS


@contextmanager
def _stock(engine: Engine) -> Iterator[StockLlama | None]:
    """Yield stock llama.cpp with the engine's model; if it fails, print why and yield None."""
    threads = engine.settings.threads or default_threads()
    try:
        stock = StockLlama(engine.model.path, threads=threads, context_size=engine.context_size)
    except LibraryError as error:
        quiet(f"not compared to stock llama.cpp: {error}")
        yield None
        return
    with stock:
        yield stock


def _measure(
    plain: Engine,
    auto: Engine,
    stock: StockLlama | None,
    prompts: Sequence[str],
    sampling: Sampling,
    tokens: int,
) -> Comparison:
    from pass_edge.convert.training.prompts import encode_prompt

    pairs: list[Pair] = []
    curve = CostCurve.of(auto)
    ids = [encode_prompt(auto, prompt) for prompt in prompts]
    with flag_interrupts() as interrupted, stage_progress() as progress:

        def note(done: int) -> None:
            if interrupted:
                raise KeyboardInterrupt
            progress("answering", done, len(prompts), _so_far(pairs))

        try:
            for pair in compare(
                plain, auto, ids, sampling=sampling, max_tokens=tokens, stock=stock, note=note
            ):
                pairs.append(pair)
        except KeyboardInterrupt:
            if not pairs:
                quiet("Interrupted; nothing was measured.")
                raise SystemExit(INTERRUPTED) from None
    return Comparison(tuple(pairs), curve)


def _so_far(pairs: Sequence[Pair]) -> str:
    """Return the gain so far, for the progress bar."""
    from statistics import median

    ratios = [pair.figures.stock_ratio for pair in pairs if pair.figures.stock_ratio]
    if ratios:
        return f"{median(ratios):.2f} times stock"
    return f"{median(pair.figures.ratio for pair in pairs):.2f} times plain" if pairs else ""


def _about(auto: Engine, sampling: Sampling, tokens: int) -> dict[str, Any]:
    return {
        "model": readable(auto.model.path.name),
        "threads": auto.settings.threads or default_threads(),
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "tokens": tokens,
        "schedule": auto.schedule,
        "notes": auto.notes,
    }


def _headline(about: dict[str, Any]) -> str:
    return (
        f"{about['model']}, {about['threads']} threads, temperature {about['temperature']:g}, "
        f"up to {about['tokens']} tokens"
    )


def _report(
    about: dict[str, Any], prompts: Sequence[str], comparison: Comparison, interrupted: bool
) -> dict[str, Any]:
    pairs = zip(prompts, comparison.pairs, strict=False)  # fewer pairs, if it was interrupted
    return about | {
        "interrupted": interrupted,
        "same_ids": not comparison.different,
        "medians": asdict(comparison.medians),
        "prompts": [
            {
                "prompt": prompt,
                "tokens": len(pair.auto.ids),
                "same_ids": pair.same_ids,
                **asdict(pair.figures),
            }
            for prompt, pair in pairs
        ],
        "time": {name: asdict(shares) for name, shares in comparison.time.items()},
        "passes": asdict(comparison.curve) if comparison.curve else None,
    }


def _write_html(page: Path, about: dict[str, Any], report: dict[str, Any], comparison: Comparison) -> None:
    from .bench_html import report_html

    columns = {name: title.replace("-\n", "").replace("\n", " ") for name, (title, _) in _COLUMNS.items()}
    html = report_html(
        report, headline=_headline(about), verdict=_verdict(comparison), columns=columns, cells=_cells
    )
    try:
        page.write_text(html, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{page} cannot be written: {error.strerror}") from error


# -- tables -------------------------------------------------------------------------------------------


def _print_tables(about: dict[str, Any], prompts: Sequence[str], comparison: Comparison) -> None:
    page = console()
    page.print(_speeds(_headline(about), prompts, comparison))
    if comparison.curve:
        page.print(_costs(comparison.curve))
    page.print(_times(comparison))
    medians = comparison.medians
    if medians.stock_ratio:
        ratio = f"{medians.stock_ratio:.2f}"
        click.echo(f"PaSS Edge is {ratio} times as fast as stock llama.cpp (median of the ratios).")
    click.echo(f"Drafting is {medians.ratio:.2f} times as fast as plain decoding.")
    click.secho(_verdict(comparison), fg="red" if comparison.different else None)


def _speeds(title: str, prompts: Sequence[str], comparison: Comparison) -> Table:
    from rich.markup import escape

    table = _table(title, "prompt", *(title for title, _ in _COLUMNS.values()))
    for number, (prompt, pair) in enumerate(zip(prompts, comparison.pairs, strict=False), 1):
        name = shorten(f"{number}. {prompt}", _PROMPT_WIDTH, placeholder=" …")
        table.add_row(escape(name), *_cells(asdict(pair.figures)))
    table.add_section()
    table.add_row("median", *_cells(asdict(comparison.medians)), style="bold")
    return table


def _cells(figures: Mapping[str, Any]) -> list[str]:
    values = [(figures[name], form) for name, (_, form) in _COLUMNS.items()]
    return ["–" if value is None else form.format(value) for value, form in values]


def _costs(curve: CostCurve) -> Table:
    table = _table("milliseconds of a pass (measured once, then remembered)", "rows", *map(str, curve.rows))
    for depth, milliseconds in zip(curve.depths, curve.milliseconds, strict=True):
        table.add_row(f"after {depth:,} tokens", *(f"{value:.1f}" for value in milliseconds))
    return table


def _times(comparison: Comparison) -> Table:
    table = _table(
        "where the time goes", "", "llama.cpp", "planning,\ndrafting", "verifying,\ncommitting, text"
    )
    for name, shares in comparison.time.items():
        table.add_row(name, f"{shares.llama_cpp:.1%}", f"{shares.drafting:.1%}", f"{shares.rest:.1%}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first, vertical="bottom")
    for title in others:
        table.add_column(title, justify="right")
    return table


def _verdict(comparison: Comparison) -> str:
    if not comparison.different:
        return "Plain and auto gave the same texts, id for id."
    numbers = ", ".join(map(str, comparison.different))
    return (
        f"THE TEXTS DIFFER in prompt {numbers}. Drafting must not change a text: unless a note above says "
        "that batch sizes change the logits here, please report this as a bug."
    )
