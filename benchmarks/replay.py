"""Replay the planner on existing texts, with the measured cost of passes instead of running them.

    python benchmarks/replay.py --model MODEL.gguf

The model's answers to the dev prompts are made once (see drafts.py; this needs the extra `train`). Then each
text is replayed: the planner drafts from the conversation, the text decides which drafts are right, and the
saved costs of this machine give the time of each pass. No pass runs, so there is no noise, and the effect of
a change in the planner can be seen. Draft heads are not used; time outside llama.cpp is not counted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click
import numpy as np
from answers import PROMPTS, questions_by_category, table
from drafts import answers

from pass_edge import Engine, Sampling, Settings
from pass_edge.convert.training.text import TrainingText
from pass_edge.drafting.drafter import PassOutput
from pass_edge.drafting.schedules import StepResult
from pass_edge.drafting.tree import DraftTree
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.planner import Planner
from pass_edge.sampling.sampler import Sampler

_NO_OUTPUT = PassOutput(np.zeros((0, 1), np.float32))


def accepted(tree: DraftTree, following: list[int]) -> tuple[int, ...]:
    """Return the tokens that a pass over ``tree`` yields if the text continues with ``following``."""
    node = 0
    for depth, token in enumerate(following):
        children = (i for i, parent in enumerate(tree.parents) if parent == node and tree.tokens[i] == token)
        node = next(children, -1)
        if node < 0:
            return tuple(following[: depth + 1])
    return tuple(following)


def ratio(text: TrainingText, planner: Planner, seconds: np.ndarray, sampling: Sampling) -> float:
    """Return the speed-up over plain decoding of ``text``, given the ``seconds`` of passes (depths,
    widths)."""
    ids, position, sampler = text.ids.tolist(), text.prompt_length - 1, Sampler(sampling)
    plain, drafting = float(seconds[position : len(ids) - 1, 0].sum()), 0.0
    planner.begin(ids[: position + 1])
    while position < len(ids) - 1:
        tree = planner.tree(ids[position])
        rows, new = len(tree.tokens), accepted(tree, ids[position + 1 :])
        cost = float(seconds[position, rows - 1])
        drafting += cost
        position += len(new)
        history = ids[: position + 1]
        planner.learn(
            StepResult(tree, new, _NO_OUTPUT, sampler, history, "sampling", position - len(new), rows, cost)
        )
    return plain / drafting


@click.command(help=__doc__)
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A GGUF file.")
@click.option("--tokens", default=128, show_default=True, help="Of each answer.")
@click.option("--temp", default=0.0, show_default=True)
@click.option("--work", default=Path("build/drafts"), show_default=True, type=click.Path(path_type=Path))
def main(model: Path, tokens: int, temp: float, work: Path) -> None:
    count = len(PROMPTS.read_text().splitlines())
    texts = iter(answers(model, work, count, tokens, temp))
    with Engine(model, lookahead=None, settings=Settings(schedule="auto")) as engine:
        assert engine.costs, "schedule auto measures them"
        seconds = np.stack([engine.costs.at(depth) for depth in range(engine.context_size)])
    widths = np.arange(1.0, seconds.shape[1] + 1)
    planner = Planner(StepCosts(widths, seconds[0], seconds[1] - seconds[0]))
    sampling = Sampling(temperature=temp)
    ratios = {
        category: [ratio(text, planner, seconds, sampling) for _, text in zip(questions, texts, strict=False)]
        for category, questions in questions_by_category(0).items()
    }
    pooled = [ratio for values in ratios.values() for ratio in values]
    rows = [[name, f"{statistics.mean(values):.2f}", f"{min(values):.2f}"] for name, values in ratios.items()]
    rows.append(["**all**", f"{statistics.mean(pooled):.3f}", f"{min(pooled):.2f}"])
    click.echo(table(["category", "mean", "worst"], rows))
    click.echo(f"\nSlower than plain by 3 % or more: {sum(x < 0.97 for x in pooled)} of {len(pooled)}.")


if __name__ == "__main__":
    main()
