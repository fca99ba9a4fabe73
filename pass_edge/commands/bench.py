"""pass-edge bench: what PaSS Edge gains on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from pass_edge import Engine, LibraryError, OutputError, Sampling, SettingsError
from pass_edge.commands.terminal.output import INTERRUPTED, flag_interrupts, quiet, stage_progress
from pass_edge.native.devices import default_threads
from pass_edge.native.output_file import check_output_path
from pass_edge.native.stock_llama import StockLlama

from .bench_comparison import Comparison, CostCurve, Pair, compare
from .bench_report import COLUMNS, cells, conditions, headline, report_object, verdict
from .engine_options import machine_options, model_argument, open_engine, parse_seed
from .model_files import file_of

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
        about = conditions(auto, sampling, tokens)
    interrupted = len(comparison.pairs) < len(prompts)
    report = report_object(about, prompts, comparison, interrupted)
    if as_json:
        click.echo(json.dumps(report))
    else:
        from .bench_tables import print_tables

        print_tables(about, prompts, comparison)
    if plot:
        from pass_edge.convert.bench_plot import plot_comparison

        speeds = {
            name: [prompt[f"{name}_tokens_per_second"] for prompt in report["prompts"]]
            for name in ("stock", "plain", "auto")
        }
        plot_comparison(plot, headline(about), comparison.curve, speeds)
        quiet(f"the plot is in {plot}")
    if page:
        _write_html(page, report, comparison)
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


def _write_html(page: Path, report: dict[str, Any], comparison: Comparison) -> None:
    from .bench_html import report_html

    columns = {name: title.replace("-\n", "").replace("\n", " ") for name, (title, _) in COLUMNS.items()}
    html = report_html(
        report,
        headline=headline(report),
        verdict=verdict(comparison),
        columns=columns,
        cells=cells,
    )
    try:
        page.write_text(html, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{page} cannot be written: {error.strerror}") from error
