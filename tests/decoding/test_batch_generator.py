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
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [3, 3]]
    samplings = [Sampling(temperature=i % 2, seed=i) for i in range(4)]
    with Engine(tiny_path, settings=Settings(schedule="plain")) as engine:
        alone = [
            engine.stream(prompt, sampling=sampling, max_tokens=30).run().ids
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
    with (
        Model(tiny_path) as model,
        BatchGenerator(model, context_settings(model, Settings(), 1), 4, 64) as parallel,
    ):
        for _ in range(2):  # nothing is left of the answers before
            together: list[list[int]] = [[] for _ in prompts]
            for step in parallel.answer(prompts, [Sampler(sampling) for sampling in samplings], 30):
                assert step.hidden.shape == (len(step.running), WIDTH)
                for which, token in zip(step.running, step.tokens, strict=True):
                    together[which].append(token)
            assert together == alone
