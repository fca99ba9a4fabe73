"""Logprobs are the model's own, and a logit bias holds on every schedule."""

from __future__ import annotations

import numpy as np
import pytest

from pass_edge import Engine, Sampling, SettingsError
from pass_edge.sampling.sampler import Sampler

WORDS = 'root ::= ("the" " "? | [a-c]+ ",")+ "."'


def test_logprobs_are_the_models_own(plain: Engine, drafting: Engine) -> None:
    sampling = Sampling(temperature=2, seed=3, top_k=3, logit_bias={5: 4.0}, grammar=WORDS)
    for engine in (plain, drafting):
        answer = engine.stream("the the the", sampling=sampling, max_tokens=40, logprobs=4).run()
        tokens = engine.tokenize("the the the")
        for i, found in enumerate(answer.logprobs):
            engine.session.prefill([*tokens, *answer.ids[:i]])
            row = engine.session.step(Sampler(Sampling(temperature=0))).logits[0].astype(np.float64)
            expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            assert found.token == answer.ids[i]
            assert found.logprob == pytest.approx(expected[found.token], abs=1e-5)
            best = np.argsort(-expected, kind="stable")[:4]
            assert [token for token, _ in found.top] == best.tolist()
            assert [value for _, value in found.top] == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_no_logprobs_unless_asked(plain: Engine) -> None:
    assert plain.stream("a", max_tokens=5).run().logprobs == []


def test_a_bias_forces_a_token_on_every_schedule(plain: Engine, drafting: Engine) -> None:
    sampling = Sampling(seed=1, logit_bias={3 + ord("a"): 1000.0, 3 + ord("b"): 900.0})
    for engine in (plain, drafting):
        assert engine.stream("x", sampling=sampling, max_tokens=30).run().text == "a" * 30


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), 1e31])
def test_a_bias_that_is_not_a_number_is_refused(bias: float) -> None:
    with pytest.raises(SettingsError, match="logit bias"):
        Sampling(logit_bias={1: bias})


@pytest.mark.parametrize("token", [-1, 1000])
def test_a_bias_for_a_token_outside_the_vocabulary_is_refused(plain: Engine, token: int) -> None:
    with pytest.raises(SettingsError, match="outside the vocabulary"):
        plain.stream("a", sampling=Sampling(logit_bias={token: 1.0}))
