"""Both verification rules leave the model's distribution unchanged: chi-square tests against the exact
probabilities, on a tiny vocabulary. Wrong rules fail them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from pass_edge.decoding import verify
from pass_edge.decoding.batcher import Batcher, InputEmbeddings
from pass_edge.decoding.session import Session
from pass_edge.decoding.verify import by_rejection, by_sampling
from pass_edge.drafting.drafter import Drafter
from pass_edge.drafting.schedules import FixedSchedule, fused
from pass_edge.drafting.tree import DraftTree
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.sampling.noise import DRAFT, gumbel
from pass_edge.sampling.sampler import Distribution, Sampler, Sampling

N_VOCAB = 12
# tests always run with few samples, and with all of them if slow tests are selected
FEW, FEW_STEPS, ALL = 12_000, 3_000, 100_000  # steps of a model take longer, and show a wrong rule sooner


def amounts(few: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("samples", [few, pytest.param(ALL, marks=pytest.mark.slow)])


FILTERS = {"temperature": 1.3, "top_k": 8, "top_p": 0.95, "min_p": 0.02}
SIGNIFICANCE = 1e-4


def p_value(counts: Counter, probabilities: dict) -> float:
    assert set(counts) <= {outcome for outcome, p in probabilities.items() if p > 0}, "an impossible outcome"
    total = sum(counts.values())
    common = [outcome for outcome, p in probabilities.items() if p * total >= 5]
    observed = [counts[outcome] for outcome in common]
    expected = [probabilities[outcome] * total for outcome in common]
    observed.append(total - sum(observed))  # the rare outcomes together
    expected.append(total - sum(expected))
    if expected[-1] < 5:
        observed[-2:], expected[-2:] = [sum(observed[-2:])], [sum(expected[-2:])]
    return float(chisquare(observed, expected).pvalue)


# -- the rules alone, on trees with several candidates at each depth ----------------------------------------

RNG = np.random.default_rng(5)
TARGET_LOGITS = (RNG.standard_normal((N_VOCAB + 1, N_VOCAB)) * 1.5).astype(
    np.float32
)  # by the previous token
DRAFT_LOGITS = (TARGET_LOGITS + RNG.standard_normal(TARGET_LOGITS.shape)).astype(np.float32)
ROOT = N_VOCAB  # a token outside the vocabulary, so that it has its own row of logits


def draw_children(q: Distribution, sampler: Sampler, position: int, count: int) -> list[int]:
    """Draw ``count`` tokens from q without replacement (the Gumbel-top-k trick)."""
    with np.errstate(divide="ignore"):
        scores = np.log(q.probabilities) + gumbel(sampler.seed, position, DRAFT, q.tokens)
    return q.tokens[np.argsort(-scores)[:count]].tolist()


def draft_tree(sampler: Sampler, width: int, depth: int) -> DraftTree:
    tokens, parents, proposals, level = [ROOT], [-1], {}, [0]
    for position in range(1, depth + 1):
        next_level = []
        for node in level:
            q = proposals[node] = sampler.distribution(DRAFT_LOGITS[tokens[node]], [])
            for token in draw_children(q, sampler, position, width):
                next_level.append(len(tokens))
                tokens.append(token)
                parents.append(node)
        level = next_level
    return DraftTree(tuple(tokens), tuple(parents), (0,) * len(tokens), proposals)


def first_two(rule: Callable, samples: int, width: int, depth: int) -> Counter:
    """Count the pairs of first tokens, over ``samples`` seeds."""
    counts: Counter = Counter()
    for seed in range(samples):
        sampler = Sampler(Sampling(seed=seed, **FILTERS))
        tree = draft_tree(sampler, width, depth)
        verdict = rule(tree, TARGET_LOGITS[list(tree.tokens)], sampler, 1, [])
        tokens = [tree.tokens[node] for node in verdict.path[1:]] + [verdict.token]
        if len(tokens) == 1:  # the step gave one token; the second comes from another step
            sampler_choice = sampler.distribution(TARGET_LOGITS[tokens[0]], [])
            tokens.append(sampler_choice.draw(seed + samples, 2, 0))
        counts[tuple(tokens[:2])] += 1
    return counts


def exact_pairs() -> dict:
    sampler = Sampler(Sampling(seed=0, **FILTERS))
    rows = [sampler.distribution(logits, []).of(np.arange(N_VOCAB)) for logits in TARGET_LOGITS]
    return {(a, b): rows[ROOT][a] * rows[a][b] for a, b in product(range(N_VOCAB), repeat=2)}


@amounts(FEW)
@pytest.mark.parametrize("rule", [by_sampling, by_rejection])
@pytest.mark.parametrize(("width", "depth"), [(1, 2), (3, 2)])
def test_verification_leaves_the_distribution_unchanged(
    rule: Callable, width: int, depth: int, samples: int
) -> None:
    assert p_value(first_two(rule, samples, width, depth), exact_pairs()) > SIGNIFICANCE


def accept_any_possible_token(tree, logits, sampler, position, history):  # type: ignore[no-untyped-def]
    """A wrong rule: accept any child that has a target probability above 0."""
    p = sampler.distribution(logits[0], history)
    for child in tree.children(0):
        if p.of(np.array([tree.tokens[child]]))[0] > 0:
            return verify.Verdict(
                (0, child), sampler.distribution(logits[child], history).draw(sampler.seed, 2, 0)
            )
    return verify.Verdict((0,), p.draw(sampler.seed, position, 0))


def keep_p_after_rejecting(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A subtly wrong rule: resample from p instead of from (p - q)+."""
    monkeypatch.setattr(Distribution, "minus", lambda self, other: self)
    return by_rejection


def test_a_wrong_rule_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    assert p_value(first_two(accept_any_possible_token, FEW_STEPS, 2, 1), exact_pairs()) < SIGNIFICANCE
    assert p_value(first_two(keep_p_after_rejecting(monkeypatch), FEW, 1, 1), exact_pairs()) < SIGNIFICANCE


# -- fused steps of a tiny model -------------------------------------------------------------------------

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def tiny_fused(tiny_path: Path) -> Iterator[Callable[[str], Session]]:
    settings = ContextSettings(cells=256, cache_type_k="q8_0", threads=1)
    with Model(tiny_path) as model, Context(model, settings) as context:
        embeddings = TokenEmbeddings(model.path)
        # embeddings of tokens as lookahead embeddings: drafts are then neither random nor always right
        inputs = InputEmbeddings(embeddings, embeddings.rows(np.array([2, 5], np.int32)))
        yield lambda rule: Session(Batcher(context, inputs), FixedSchedule(fused, Drafter(2)), rule=rule)


def exact_triples(session: Session, sampler: Sampler) -> dict:
    context, exact = session._context, {}

    def row(tokens: list[int]) -> np.ndarray:
        context.clear()
        context.decode_tokens(rows_of_sequence(0, len(tokens), outputs=1), np.array(tokens, np.int32))
        return sampler.distribution(context.logits(1)[0].copy(), []).of(np.arange(N_VOCAB))

    first = row(PROMPT)
    for a in np.flatnonzero(first).tolist():
        second = row([*PROMPT, a])
        for b in np.flatnonzero(second).tolist():
            for c, p in enumerate(row([*PROMPT, a, b])):
                exact[a, b, c] = first[a] * second[b] * p
    session.forget()
    return exact


def sample_triples(session: Session, samples: int) -> tuple[Counter, int]:
    counts: Counter = Counter()
    accepted = 0
    for seed in range(samples):
        sampler = Sampler(Sampling(seed=seed, **FILTERS))
        session.prefill(PROMPT)
        tokens: list[int] = []
        while len(tokens) < 3:
            new = session.step(sampler).tokens
            accepted += len(new) - 1
            tokens += new
        counts[tuple(tokens[:3])] += 1
    return counts, accepted


def check_steps(session: Session, samples: int) -> None:
    exact = exact_triples(session, Sampler(Sampling(seed=0, **FILTERS)))
    counts, accepted = sample_triples(session, samples)
    assert accepted > samples / 100, "too few drafts were accepted to test the rule"
    assert p_value(counts, exact) > SIGNIFICANCE


@amounts(FEW_STEPS)
@pytest.mark.parametrize("rule", ["sampling", "rejection"])
def test_fused_steps_draw_from_the_models_distribution(tiny_fused: Callable, rule: str, samples: int) -> None:
    check_steps(tiny_fused(rule), samples)


def test_a_wrong_rule_in_fused_steps_fails_the_test(
    tiny_fused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distribution, "minus", lambda self, other: self)
    session = tiny_fused("rejection")
    exact = exact_triples(session, Sampler(Sampling(seed=0, **FILTERS)))
    assert p_value(sample_triples(session, FEW_STEPS)[0], exact) < SIGNIFICANCE
