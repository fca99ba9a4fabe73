"""What `pass-edge bench` found: the JSON object, and the words and formats that tables and page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pass_edge import Engine, Sampling
from pass_edge.native.devices import default_threads
from pass_edge.native.model_path import readable

from .bench_comparison import Comparison

COLUMNS = {
    "stock_tokens_per_second": ("stock\nt/s", "{:.1f}"),
    "plain_tokens_per_second": ("plain\nt/s", "{:.1f}"),
    "auto_tokens_per_second": ("auto\nt/s", "{:.1f}"),
    "stock_ratio": ("to\nstock", "{:.2f}"),
    "ratio": ("to\nplain", "{:.2f}"),
    "tokens_per_pass": ("tokens\n/pass", "{:.2f}"),
    "accepted_share": ("accep-\nted", "{:.0%}"),
}
"""The columns of the figures: their titles, which break in tables, and their formats."""


def conditions(auto: Engine, sampling: Sampling, tokens: int) -> dict[str, Any]:
    """Return the model and the settings of a measurement."""
    return {
        "model": readable(auto.model.path.name),
        "threads": auto.settings.threads or default_threads(),
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "tokens": tokens,
        "schedule": auto.schedule,
        "notes": auto.notes,
    }


def headline(about: Mapping[str, Any]) -> str:
    """Return the conditions in one line."""
    return (
        f"{about['model']}, {about['threads']} threads, temperature {about['temperature']:g}, "
        f"up to {about['tokens']} tokens"
    )


def report_object(
    about: Mapping[str, Any], prompts: Sequence[str], comparison: Comparison, interrupted: bool
) -> dict[str, Any]:
    """Return the JSON object: the conditions, ``about``, and what was found."""
    pairs = zip(prompts, comparison.pairs, strict=False)  # fewer pairs, if it was interrupted
    return {
        **about,
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


def cells(figures: Mapping[str, Any]) -> list[str]:
    """Return the formatted figures of one row."""
    values = [(figures[name], form) for name, (_, form) in COLUMNS.items()]
    return ["–" if value is None else form.format(value) for value, form in values]


def verdict(comparison: Comparison) -> str:
    """Return whether drafting has changed a text."""
    if not comparison.different:
        return "Plain and auto gave the same texts, id for id."
    numbers = ", ".join(map(str, comparison.different))
    return (
        f"THE TEXTS DIFFER in prompt {numbers}. Drafting must not change a text: unless a note above says "
        "that batch sizes change the logits here, please report this as a bug."
    )
