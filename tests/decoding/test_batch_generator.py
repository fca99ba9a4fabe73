"""Prompts answered together get the tokens that each gets alone."""

from __future__ import annotations

from pathlib import Path

from pass_edge import Engine, Sampling, Settings
from pass_edge.decoding.batch_generator import BatchGenerator
from pass_edge.native.model import Model
from pass_edge.sampling.sampler import Sampler
from pass_edge.settings import context_settings
from tests.support.lookaheads import WIDTH


def test_many_at_once_are_answered_as_one_at_a_time(tiny_path: Path) -> None:
    long = [i % 9 + 1 for i in range(20)]  # its answer ends early, because there are 36 cells
    prompts = [[1, 2, 3], long, [5, 6, 7, 8, 9], [3, 3], [8, 1], long[1:], [7]]
    samplings = [Sampling(temperature=i % 2, seed=i) for i in range(len(prompts))]
    with Engine(tiny_path, settings=Settings(schedule="plain")) as engine:
        alone = [
            engine.stream(prompt, sampling=sampling, max_tokens=min(30, 36 - len(prompt))).run().ids
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
    with (
        Model(tiny_path) as model,
        BatchGenerator(model, context_settings(model, Settings(), 1), 4, 36) as parallel,
    ):
        for _ in range(2):  # nothing is left of the answers before
            together: list[list[int]] = [[] for _ in prompts]
            ended: list[int] = []
            for step in parallel.answer(prompts, [Sampler(sampling) for sampling in samplings], 30):
                assert step.hidden.shape == (len(step.running), WIDTH)
                assert len(step.running) == min(4, len(prompts) - len(ended)), "each place is taken at once"
                ended += step.ended
                for which, token in zip(step.running, step.tokens, strict=True):
                    together[which].append(token)
            assert together == alone
            assert sorted(ended) == list(range(len(prompts)))
            assert ended[0] == 1
