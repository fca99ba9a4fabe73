"""What the planner gains on texts that are there already, by what passes cost instead of by the clock.

    python benchmarks/replay.py --model MODEL.gguf

The model's answers to the dev prompts are made once (as in drafts.py, which needs what training needs), and
then gone through as the planner would have: it drafts from the conversation, the text says what is right, and
the remembered costs of this machine say how long each pass takes. No pass runs, so nothing is noise: this is
where to see what a change in the planner does. Heads are not asked; time outside llama.cpp is not counted.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click
import numpy as np
from answers import PROMPTS, questions_by_category, table
from drafts import answers

from pass_edge import Engine, Sampling, Settings
from pass_edge.convert.training.text import Answered
from pass_edge.drafting.drafter import PassOutput
from pass_edge.drafting.schedules import StepResult
from pass_edge.drafting.tree import DraftTree
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.planner import Planner
from pass_edge.sampling.sampler import Sampler

_NOTHING = PassOutput(np.zeros((0, 1), np.float32))


def accepted(tree: DraftTree, coming: list[int]) -> tuple[int, ...]:
    """What a pass over ``tree`` gives in a text that goes on with ``coming``."""
    node = 0
    for depth, token in enumerate(coming):
        below = (i for i, parent in enumerate(tree.parents) if parent == node and tree.tokens[i] == token)
        node = next(below, -1)
        if node < 0:
            return tuple(coming[: depth + 1])
    return tuple(coming)


def ratio(text: Answered, planner: Planner, seconds: np.ndarray, sampling: Sampling) -> float:
    """How many times as fast as plain decoding ``text`` is made, by costs of ``seconds`` (depths, widths)."""
    ids, position, sampler = text.ids.tolist(), text.prompt - 1, Sampler(sampling)
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
            StepResult(tree, new, _NOTHING, sampler, history, "sampling", position - len(new), rows, cost)
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
        assert engine.costs, "schedule auto knows them"
        seconds = np.stack([engine.costs.at(depth) for depth in range(engine.context_size)])
    widths = np.arange(1.0, seconds.shape[1] + 1)
    planner = Planner(StepCosts(widths, seconds[0], seconds[1] - seconds[0]))
    sampling = Sampling(temperature=temp)
    ratios = {
        category: [ratio(text, planner, seconds, sampling) for _, text in zip(questions, texts, strict=False)]
        for category, questions in questions_by_category(0).items()
    }
    pooled = [x for found in ratios.values() for x in found]
    rows = [[name, f"{statistics.mean(found):.2f}", f"{min(found):.2f}"] for name, found in ratios.items()]
    rows.append(["**all**", f"{statistics.mean(pooled):.3f}", f"{min(pooled):.2f}"])
    click.echo(table(["category", "mean", "worst"], rows))
    click.echo(f"\nSlower than plain by 3 % or more: {sum(x < 0.97 for x in pooled)} of {len(pooled)}.")


if __name__ == "__main__":
    main()
