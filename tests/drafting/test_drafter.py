"""Drafts from lookahead tokens, a prefix and heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pass_edge import Engine, Lookahead, Sampling, Settings
from pass_edge.drafting.drafter import Drafter, PassOutput
from pass_edge.drafting.heads import Heads
from pass_edge.generation import Generation
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.sampling.sampler import Sampler
from tests.support.lookaheads import N_VOCAB, WIDTH, lookahead_for, random_head

SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=1.5, seed=5))


@pytest.mark.parametrize("schedule", ["fused", "two-pass", "auto"])
def test_a_prefix_changes_drafts_but_not_the_text(schedule: str, tiny_path: Path) -> None:
    plain, *drafted = (
        answer(tiny_path, lookahead, schedule if lookahead else "plain")
        for lookahead in (None, lookahead_for(tiny_path), lookahead_for(tiny_path, prefix=prefix_of(9)))
    )
    assert plain.ids == drafted[0].ids == drafted[1].ids
    if schedule != "auto":  # auto may find that nothing pays here
        assert drafted[0].stats.accepted != drafted[1].stats.accepted


def prefix_of(count: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, WIDTH)).astype(np.float32)


def answer(model: Path, lookahead: Lookahead | None, schedule: str) -> Generation:
    settings = Settings(schedule=schedule, draft_max=None if schedule in ("auto", "plain") else 2)
    with Engine(model, lookahead=lookahead, settings=settings) as engine:
        assert engine.schedule == schedule
        return engine.stream([1, 2, 3], sampling=SAMPLINGS[1], max_tokens=200).run()


@pytest.mark.parametrize("rule", ["sampling", "rejection"])
def test_a_draft_ends_where_its_probability_falls_below_p_min(rule: str) -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1]], np.float32))
    sampler = Sampler(Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=3))
    for p_min, length in ((0.0, 3), (0.6, 3), (0.7, 2), (0.73, 1), (0.9, 1), (0.91, 0)):
        draft = Drafter(3, p_min=p_min - 1e-6).draft(PassOutput(logits), 0, sampler, 5, [], rule)
        assert len(draft.tokens) == length


def test_a_note_says_what_the_lookahead_lacks(tiny_path: Path) -> None:
    settings = Settings(schedule="head")
    with Engine(tiny_path, lookahead=lookahead_for(tiny_path), settings=settings) as engine:
        assert engine.schedule == "plain"
        assert "no head for hidden states" in engine.notes[-1]


def test_two_pass_drafts_as_the_paper_does(tiny_path: Path) -> None:
    """With lookahead tokens alone, whether there are heads or not."""
    passes = []
    for parts in ({}, {"head": random_head(1), "hidden_head": random_head(2)}):
        settings = Settings(schedule="two-pass")
        with Engine(tiny_path, lookahead=lookahead_for(tiny_path, **parts), settings=settings) as engine:
            stats = engine.stream([1, 2, 3], sampling=SAMPLINGS[0], max_tokens=60).run().stats
            passes.append((stats.passes, stats.drafted, stats.accepted))
    assert passes[0] == passes[1]


def test_corrected_outputs_come_first_and_then_the_hidden_head(tiny_path: Path) -> None:
    lookahead = lookahead_for(tiny_path, head=random_head(5, inputs=3), hidden_head=random_head(6))
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((2, N_VOCAB)).astype(np.float32)
    states = rng.standard_normal((2, WIDTH)).astype(np.float32)
    hidden = rng.standard_normal(WIDTH).astype(np.float32)
    heads = Heads(lookahead, TokenEmbeddings(tiny_path), threads=1)
    tokens, drafted = [4], []
    for prediction in Drafter(4, heads)._predictions(PassOutput(logits, hidden, states), tokens):
        drafted.append(prediction.logits.copy())
        tokens.append(prediction.token_at(int(prediction.logits.argmax()))[0])
    previous, expected = hidden, []
    for state, token in zip(states, tokens, strict=False):
        corrected = heads.correct(state, token, previous)
        assert corrected
        previous = corrected[0]
        expected.append(corrected[1].logits.copy())
    state = hidden
    for token in tokens[:4]:
        advanced = heads.advance(state, token)
        assert advanced
        state = advanced[0]
        expected.append(advanced[1].logits.copy())
    heads.close()
    np.testing.assert_array_equal(drafted, [*expected[:2], *expected[4:]])
