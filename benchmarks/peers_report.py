"""The report of `peers.py`, as Markdown and as a plot: decoding speeds on the same questions."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from answers import Answer, Job, cpu_name, table
from contender_process import Opened

DEFAULT = "ours: auto"
PACKAGES = ("pass-edge", "llama-cpp-python", "xllamacpp")


@dataclass(frozen=True)
class Entrant:
    """A contender that can be opened. ``base``: the entrant that decodes plainly with the same library;
    ``settings``: as text; ``open``: loads the model in the calling process."""

    name: str
    base: str
    settings: str
    open: Callable[[], Opened]

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("ours")


@dataclass(frozen=True)
class Round:
    """One question, answered by all entrants."""

    category: str
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class Run:
    """A whole run. The first entrant is the reference for all ratios."""

    job: Job
    entrants: list[Entrant]
    rounds: list[Round]
    notes: list[str]

    @property
    def names(self) -> list[str]:
        return [entrant.name for entrant in self.entrants]

    @property
    def reference(self) -> str:
        return self.names[0]

    @property
    def rivals(self) -> list[str]:
        return [entrant.name for entrant in self.entrants if not entrant.is_ours]

    def by_category(self) -> Iterator[tuple[str, list[Round]]]:
        for category in dict.fromkeys(r.category for r in self.rounds):
            yield category, [r for r in self.rounds if r.category == category]


def ratios(rounds: list[Round], name: str, base: str) -> list[float]:
    return [r.answers[name].tokens_per_second / r.answers[base].tokens_per_second for r in rounds]


def spread(values: list[float]) -> str:
    """Return the median, with the quartiles if there are at least two values."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def best_rival(rounds: list[Round], rivals: list[str]) -> tuple[str, float]:
    """Return the fastest rival relative to our default, and our speed as a multiple of its."""
    leads = {rival: statistics.median(ratios(rounds, DEFAULT, rival)) for rival in rivals}
    best = min(leads, key=leads.__getitem__)
    return best, leads[best]


def ratio_table(run: Run) -> str:
    rows, medians, ahead = [], [], 0
    for category, rounds in run.by_category():
        values = [ratios(rounds, name, run.reference) for name in run.names]
        medians.append([statistics.median(v) for v in values])
        best, lead = best_rival(rounds, run.rivals)
        ahead += lead > 1
        verdict = f"{'yes' if lead > 1 else 'no'}, {lead:.2f} times"
        rows.append([category, *map(spread, values), best, verdict])
    means = [f"**{statistics.mean(column):.2f}**" for column in zip(*medians, strict=True)]
    best, lead = best_rival(run.rounds, run.rivals)
    verdict = f"**{ahead} of {len(rows)}**, {lead:.2f} times at the median question"
    rows.append(["**mean over categories**", *means, best, verdict])
    return table(["category", *run.names, "best rival", f"{DEFAULT} ahead of it"], rows)


def speed_table(run: Run) -> str:
    def row(title: str, rounds: list[Round]) -> list[str]:
        rates = [[r.answers[name].tokens_per_second for r in rounds] for name in run.names]
        return [title, *(f"{statistics.median(each):.1f}" for each in rates)]

    rows = [row(category, rounds) for category, rounds in run.by_category()]
    return table(["median tokens/s", *run.names], [*rows, row("**all questions**", run.rounds)])


def library_table(run: Run) -> str:
    """Return a table of each entrant's speed relative to plain decoding with its own library."""
    rows = []
    for entrant in run.entrants:
        pairs = [(r.answers[entrant.name], r.answers[entrant.base]) for r in run.rounds]
        same = sum(answer.text == plain.text for answer, plain in pairs)
        alike = sum(begin_alike(r.answers[entrant.name], r.answers[run.reference]) for r in run.rounds)
        passes = [answer.tokens_per_pass for answer, _ in pairs if answer.tokens_per_pass]
        rows.append(
            [
                entrant.name,
                spread(ratios(run.rounds, entrant.name, entrant.base)),
                f"{same} of {len(pairs)}",
                f"{alike} of {len(pairs)}",
                f"{statistics.mean(passes):.2f}" if passes else "–",
                f"{statistics.median(answer.tokens for answer, _ in pairs):g}",
            ]
        )
    texts = "same text", f"text of {run.reference}"
    return table(["to plain decoding of its library", "speed", *texts, "tokens/pass", "tokens"], rows)


def begin_alike(answer: Answer, other: Answer) -> bool:
    """Return whether the shorter text begins the longer one. Libraries count first and last tokens
    differently."""
    short, long = sorted((answer.text, other.text), key=len)
    return long.startswith(short)


def heading(run: Run) -> str:
    count = len(run.rounds)
    waiting = os.environ.get("OMP_WAIT_POLICY", "unset")
    return (
        f"### Peers: {run.job.model.name}, temperature {run.job.temperature:g}\n\n"
        f"{cpu_name()}, {run.job.threads} threads (OMP_WAIT_POLICY {waiting}); {', '.join(versions())}; "
        f"{count} question{'s' * (count > 1)}, at most {run.job.tokens} tokens each. Ratios of tokens/s to "
        f"{run.reference} on the same question: medians, and quartiles in brackets, of one interleaved run."
    )


def versions() -> Iterator[str]:
    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def report(run: Run) -> str:
    facts = [*(f"{entrant.name}: {entrant.settings}" for entrant in run.entrants), *run.notes]
    tables = [make(run) for make in (heading, ratio_table, speed_table, library_table)]
    return "\n\n".join([*tables, "\n".join(f"- {fact}" for fact in facts)]) + "\n"


def plot(run: Run, path: Path) -> None:
    """Plot a row for each category, with a mark for each entrant. Diamonds are our default."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    categories = dict(run.by_category())
    for name in run.names:
        medians = [statistics.median(ratios(rounds, name, run.reference)) for rounds in categories.values()]
        style = (
            {"marker": "D", "color": "black", "zorder": 3}
            if name == DEFAULT
            else {"marker": "o", "alpha": 0.6}
        )
        axes.plot(medians, list(categories), linestyle="none", label=name, **style)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"tokens/s, as a multiple of {run.reference}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
