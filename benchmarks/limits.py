"""How near the engine comes to what its passes allow, with drafts that know the answer.

    python benchmarks/limits.py --model MODEL.gguf
    python benchmarks/limits.py --model MODEL.gguf --right 0.45,0.35,0.33,0.30

The draft source is an oracle that has read the answer, so what is lost is the engine's own: planning,
verifying, rolling back, and what the cost model gets wrong. With --right it is wrong as often as said, at
each depth, and with --second something else that it drafts there may be right: this shows what drafts of a
measured acceptance would earn on this model and machine. Greedy; plain and drafting in turn; medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track

from pass_edge import Engine, Sampling, Settings
from pass_edge.drafting.ngrams import FIRST_CHOICE, MAX_MATCH_LENGTH, OTHER_CHOICE
from pass_edge.planning.acceptance import MATCH_LENGTHS

GREEDY = Sampling(temperature=0)


class Oracle:
    """In the place of the n-gram index: it knows how ``text`` goes on, and at depth d it says so with the
    chance ``right[d]`` (the last one for all that is deeper). With the chance ``second`` it is what it says
    besides, where that is not 0."""

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
        """What it says at ``depth``: as a head, it goes on behind its first token alone."""
        if self._length + depth >= len(self._text):
            return
        token, drawn = self._text[self._length + depth], rng.random()
        chance = self._right[min(depth, len(self._right) - 1)]
        wrong = lost or drawn >= chance
        # lengths whose chances are learnt apart: one stands for each depth
        length = MATCH_LENGTHS[min(depth, len(MATCH_LENGTHS) - 1)] if chance < 1 else MAX_MATCH_LENGTH
        yield (token + wrong) % self._n_vocab, length, FIRST_CHOICE, self._from(depth + 1, rng, lost=wrong)
        if self._second:
            is_right = not lost and chance <= drawn < chance + self._second
            yield (token + 2 * (not is_right)) % self._n_vocab, length, OTHER_CHOICE, ()


def limit(engine: Engine, depth: int) -> float:
    """The most tokens a second that passes allow behind ``depth`` tokens."""
    assert engine.costs, "the oracle drafts on schedule auto"
    seconds = engine.costs.at(depth)
    return float((np.arange(1, len(seconds) + 1) / seconds).max())


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A GGUF file.")
@click.option("--right", default="1", help="Chances that drafts are right, by depth, with commas.")
@click.option("--second", default=0.0, help="Chance that what is drafted besides is right.")
@click.option(
    "--depths", default="128,1024", show_default=True, help="Tokens in the cache before the answer."
)
@click.option("--tokens", default=256, show_default=True, help="Tokens of each answer.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", type=int, help="CPU threads. [default: all cores]")
def main(
    model: Path, right: str, second: float, depths: str, tokens: int, repeats: int, threads: int | None
) -> None:
    chances = [float(chance) for chance in right.split(",")]
    settings = Settings(threads=threads, context_size=max(map(int, depths.split(","))) + tokens + 64)
    with (
        Engine(model, lookahead=None, settings=settings) as drafting,
        Engine(model, lookahead=None, settings=replace(settings, schedule="plain")) as plain,
    ):
        click.echo("| tokens before | plain tokens/s | oracle | ratio | tokens/pass | limit | share of it |")
        click.echo("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for depth in map(int, depths.split(",")):
            click.echo(row(plain, drafting, depth, (chances, second), tokens, repeats))


def row(
    plain: Engine,
    drafting: Engine,
    depth: int,
    chances: tuple[Sequence[float], float],
    tokens: int,
    repeats: int,
) -> str:
    """Both engines answer in turn behind ``depth`` random tokens."""
    rng = np.random.default_rng(depth)
    prompt = rng.integers(10, plain.base.n_vocab, depth).tolist()
    truth = [*prompt, *plain.stream(prompt, sampling=GREEDY, max_tokens=tokens).run().ids]
    drafting.session._schedule._index = Oracle(truth, *chances, plain.base.n_vocab)  # type: ignore[attr-defined]
    most = limit(drafting, depth + tokens // 2)
    paces: dict[str, list[float]] = {"plain": [], "oracle": []}
    for _ in track(range(repeats), f"{depth} tokens before", transient=True):
        for name, engine in (("plain", plain), ("oracle", drafting)):
            done = engine.stream(prompt, sampling=GREEDY, max_tokens=tokens).run()
            assert done.ids == truth[depth:], "the oracle changed the text"
            paces[name].append(done.stats.tokens_per_second)
    slow, fast = (statistics.median(paces[name]) for name in ("plain", "oracle"))
    return (
        f"| {depth} | {slow:.1f} | {fast:.1f} | {fast / slow:.2f} | {done.stats.tokens_per_pass:.2f} "
        f"| {most:.1f} | {fast / most:.2f} |"
    )


if __name__ == "__main__":
    main()
