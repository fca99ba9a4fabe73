"""Sampling: llama.cpp's filters in its order, exact shortcuts, random numbers keyed by position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from pass_edge import ContextError, Sampling, SettingsError
from pass_edge.sampling.noise import TARGET, uniform
from pass_edge.sampling.sampler import Distribution, Sampler

logits_of = st.integers(2, 5000).flatmap(
    lambda n: st.builds(
        # rounded, to get ties
        lambda seed: np.round(np.random.default_rng(seed).standard_normal(n) * 4, 1).astype(np.float32),
        st.integers(0, 2**32),
    )
)


def reference(logits: np.ndarray, s: Sampling) -> dict[int, float]:
    """Return the distribution that llama.cpp's sampler chain gives, literally: sort everything, then cut."""
    order = sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))
    if s.top_k:
        order = order[: s.top_k]
    weights = np.exp(logits[order].astype(np.float64) - float(logits[order[0]]))
    if s.top_p < 1:
        reached = np.cumsum(weights / weights.sum())
        order = order[: int(np.argmax(reached >= s.top_p - 1e-12)) + 1]
    if s.min_p:
        order = [t for t in order if float(logits[t]) >= float(logits[order[0]]) + np.log(s.min_p) - 1e-12]
    weights = np.exp((logits[order].astype(np.float64) - float(logits[order[0]])) / s.temperature)
    return dict(zip(order, weights / weights.sum(), strict=True))


@given(
    logits=logits_of,
    top_k=st.sampled_from([0, 1, 5, 40]),
    top_p=st.sampled_from([1.0, 0.95, 0.5]),
    min_p=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_filters_keep_what_llama_cpp_keeps(
    logits: np.ndarray, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = Sampling(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p, seed=1)
    got = Sampler(sampling).distribution(logits, [])
    expected = reference(logits, sampling)
    assert got.tokens.tolist() == sorted(expected)
    np.testing.assert_allclose(got.probabilities, [expected[t] for t in got.tokens.tolist()], rtol=1e-9)


def test_a_choice_depends_on_seed_and_position_alone() -> None:
    logits = np.zeros(50, np.float32)
    sampler = Sampler(Sampling(temperature=1, top_k=0, seed=4))
    choices = [sampler.choose(logits, position, []) for position in range(200)]
    assert [Sampler(sampler.sampling).choose(logits, position, [1, 2]) for position in range(200)] == choices
    assert len(set(choices)) > 30
    other = Sampler(Sampling(temperature=1, top_k=0, seed=5))
    assert [other.choose(logits, position, []) for position in range(200)] != choices


@pytest.mark.parametrize("vary", ["seed", "position", "stream", "token"])
def test_noise_is_uniform_along_every_coordinate(vary: str) -> None:
    n = 20_000
    if vary == "token":
        draws = uniform(1, 2, TARGET, np.arange(n))
    else:
        base = {"seed": 1, "position": 2, "stream": 3}
        draws = np.array([uniform(**{**base, vary: i}, tokens=np.array([7]))[0] for i in range(n)])
    assert kstest(draws, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.03


@given(
    logits=logits_of,
    sampling=st.sampled_from(
        [Sampling(temperature=0), Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=2)]
    ),
)
def test_the_second_choice_is_the_one_made_without_the_first(logits: np.ndarray, sampling: Sampling) -> None:
    sampler, remaining = Sampler(sampling), logits.copy()
    for index in sampler.ranked(logits, 7, [], 3):
        assert index == sampler.choose(remaining, 7, [])
        remaining[index] = -np.inf


@given(logits=logits_of, temperature=st.sampled_from([0, 1]))
def test_ranking_some_tokens_is_ranking_all_with_the_others_at_minus_infinity(
    logits: np.ndarray, temperature: float
) -> None:
    sampler = Sampler(Sampling(temperature=temperature, seed=3))
    tokens = np.arange(len(logits), dtype=np.int64) * 3 + 1
    all_logits = np.full(3 * len(logits), -np.inf, np.float32)
    all_logits[tokens] = logits
    ranked = sampler.ranked(logits, 7, [], 3, tokens=tokens)
    assert tokens[ranked].tolist() == sampler.ranked(all_logits, 7, [], len(ranked))


def test_penalties_follow_llama_cpp() -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.0], np.float32)
    sampling = Sampling(
        temperature=1,
        repeat_penalty=2.0,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        repeat_last_n=3,
        logit_bias={3: 1.5},
    )
    adjusted = Sampler(sampling)._adjusted(logits, [2, 0, 0, 1])  # token 2 is not among the last three
    np.testing.assert_allclose(adjusted, [1.0 - 1.0 - 0.25, -4.0 - 0.5 - 0.25, 1.0, 1.5])
    np.testing.assert_array_equal(logits, [2.0, -2.0, 1.0, 0.0])


def test_a_banned_token_is_never_chosen() -> None:
    logits = np.array([5.0, 4.0, 3.0], np.float32)
    for temperature in (0.0, 1.0):
        sampler = Sampler(Sampling(temperature=temperature, logit_bias={0: -np.inf}, seed=1))
        assert {sampler.choose(logits, position, []) for position in range(50)} <= {1, 2}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_are_not_numbers_are_an_error(temperature: float) -> None:
    sampler, logits = Sampler(Sampling(temperature=temperature)), np.full(5000, np.nan, np.float32)
    for choose in (sampler.choose, lambda *args: sampler.ranked(*args, count=2)):
        with pytest.raises(ContextError, match="not numbers"):
            choose(logits, 7, [])
    with pytest.raises(ContextError, match="not numbers"):
        sampler.distribution(logits, [])


def test_difference_of_distributions() -> None:
    p = Distribution(np.array([1, 2, 3]), np.array([0.5, 0.3, 0.2]))
    q = Distribution(np.array([2, 3, 9]), np.array([0.1, 0.6, 0.3]))
    difference = p.minus(q)
    assert difference is not None
    np.testing.assert_allclose(difference.of(np.array([1, 2, 3, 9])), [5 / 7, 2 / 7, 0, 0])
    assert p.minus(p) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 1},
        {"repeat_penalty": 0},
        {"repeat_last_n": -2},
        {"presence_penalty": float("inf")},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    name = next(iter(wrong)).replace("_", "-")
    with pytest.raises(SettingsError, match=name):
        Sampling(**wrong)
