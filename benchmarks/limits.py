"""Compare the engine's speed, with drafts from an oracle, to the limit that the cost of passes sets.

    python benchmarks/limits.py --model MODEL.gguf
    python benchmarks/limits.py --model MODEL.gguf --right 0.45,0.35,0.33,0.30

The oracle drafts from the known answer, so all loss is the engine's own: planning, verifying, rolling back,
and errors of the cost model. --right lowers the acceptance at each depth, and --second adds an alternative
draft with its own probability. This shows the speed-up of a given acceptance on this model and machine.
Decoding is greedy, and the text cannot end; plain and drafting alternate; medians are shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from pass_edge import Engine, Sampling, Settings
from pass_edge.drafting.ngrams import FIRST_CHOICE, MAX_MATCH_LENGTH, OTHER_CHOICE
from pass_edge.planning.acceptance import MATCH_LENGTHS


class Oracle:
    """A draft source in the place of the n-gram index. At depth d it drafts the true next token of ``text``
    with probability ``right[d]`` (the last value for all deeper ones), else a wrong one. If ``second`` is not
    0, it also drafts an alternative, which is the true token with that probability."""

    def __init__(self, text: Sequence[int], right: Sequence[float], second: float, n_vocab: int) -> None:
        self._text, self._right, self._second, self._n_vocab = list(text), list(right), second, n_vocab
        self._length = 0

    def reset_to(self, tokens: Sequence[int]) -> None:
        self._length = len(tokens)

    def append(self, token: int) -> None:
        self._length += 1

    def continuations(self) -> Iterator[tuple[int, int, int, Iterable[Any]]]:
        return self._from(0, np.random.default_rng([7, self._length]))

    def _from(
        self, depth: int, rng: np.random.Generator, *, lost: bool = False
    ) -> Iterator[tuple[int, int, int, Iterable[Any]]]:
        """Yield the drafts at ``depth``. Like a head, it continues after its first token only. ``lost``: a
        token before is wrong."""
        if self._length + depth >= len(self._text):
            return
        token, drawn = self._text[self._length + depth], rng.random()
        probability = self._right[min(depth, len(self._right) - 1)]
        wrong = lost or drawn >= probability
        # acceptance is learned by match length, so each depth gets a length of its own
        n = min(depth, len(MATCH_LENGTHS) - 1)
        length = MATCH_LENGTHS[n] if probability < 1 else MAX_MATCH_LENGTH
        yield (token + wrong) % self._n_vocab, length, FIRST_CHOICE, self._from(depth + 1, rng, lost=wrong)
        if self._second:
            is_right = not lost and probability <= drawn < probability + self._second
            yield (token + 2 * (not is_right)) % self._n_vocab, length, OTHER_CHOICE, ()


def limit(engine: Engine, depth: int) -> float:
    """Return the most tokens per second that passes after ``depth`` tokens allow."""
    assert engine.costs, "the oracle drafts on schedule auto"
    seconds = engine.costs.at(depth)
    return float((np.arange(1, len(seconds) + 1) / seconds).max())


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A GGUF file.")
@click.option("--right", default="1", help="Acceptance by depth, separated by commas.")
@click.option("--second", default=0.0, help="Acceptance of the alternative draft.")
@click.option(
    "--depths", default="128,1024", show_default=True, help="Tokens in the cache before the answer."
)
@click.option("--tokens", default=256, show_default=True, help="Tokens of each answer.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", type=int, help="CPU threads. [default: all cores]")
def main(
    model: Path, right: str, second: float, depths: str, tokens: int, repeats: int, threads: int | None
) -> None:
    acceptance = [float(share) for share in right.split(",")]
    settings = Settings(threads=threads, context_size=max(map(int, depths.split(","))) + tokens + 64)
    with (
        Engine(model, lookahead=None, settings=settings) as drafting,
        Engine(model, lookahead=None, settings=replace(settings, schedule="plain")) as plain,
    ):
        click.echo("| tokens before | plain tokens/s | oracle | ratio | tokens/pass | limit | share of it |")
        click.echo("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for depth in map(int, depths.split(",")):
            click.echo(row(plain, drafting, depth, (acceptance, second), tokens, repeats))


def row(
    plain: Engine,
    drafting: Engine,
    depth: int,
    acceptance: tuple[Sequence[float], float],
    tokens: int,
    repeats: int,
) -> str:
    """Return a row of the table: both engines answer in turn after ``depth`` random tokens."""
    rng = np.random.default_rng(depth)
    prompt = rng.integers(10, plain.model.n_vocab, depth).tolist()
    # not min_tokens, which masks the end tokens in Python: 6 % of the speed of the 0.5B
    endless = Sampling(temperature=0, logit_bias=dict.fromkeys(plain.model.vocabulary.end_tokens, -math.inf))
    truth = [*prompt, *plain.stream(prompt, sampling=endless, max_tokens=tokens).run().ids]
    drafting.session._schedule._index = Oracle(truth, *acceptance, plain.model.n_vocab)  # type: ignore[attr-defined]
    maximum = limit(drafting, depth + tokens // 2)
    speeds: dict[str, list[float]] = {"plain": [], "oracle": []}
    for _ in track(range(repeats), f"{depth} tokens before", transient=True, console=Console(stderr=True)):
        for name, engine in (("plain", plain), ("oracle", drafting)):
            generation = engine.stream(prompt, sampling=endless, max_tokens=tokens).run()
            assert generation.ids == truth[depth:], "the oracle changed the text"
            speeds[name].append(generation.stats.tokens_per_second)
    slow, fast = (statistics.median(speeds[name]) for name in ("plain", "oracle"))
    return (
        f"| {depth} | {slow:.1f} | {fast:.1f} | {fast / slow:.2f} | {generation.stats.tokens_per_pass:.2f} "
        f"| {maximum:.1f} | {fast / maximum:.2f} |"
    )


if __name__ == "__main__":
    main()
