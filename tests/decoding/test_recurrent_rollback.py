"""Rollback of recurrent and hybrid memories leaves no trace, for each kind of llama.cpp's graphs.

A chain is drafted, of which any number of tokens is right. What follows has the bits of a context that
decoded only what was accepted, one token at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pass_edge.drafting.tree import Draft, DraftTree
from tests.support.recurrent_models import KEEPS_STATES, KINDS, N_VOCAB, write_recurrent_model
from tests.support.reference_decoding import GREEDY, Bench

MAX_DRAFTS = 8
PATTERNS = 1_000


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    path = tmp_path_factory.mktemp("recurrent") / f"{request.param}.gguf"
    bench = Bench(write_recurrent_model(path, request.param), 768, threads=1, rollback=MAX_DRAFTS)
    assert bench.drafting.n_rollback == (MAX_DRAFTS if request.param in KEEPS_STATES else 0)
    yield bench
    bench.close()


def chain(root: int, future: list[int], n_drafts: int, n_right: int) -> DraftTree:
    """A chain of which the first ``n_right`` drafts are the tokens that follow, and the next one is not."""
    wrong = [(token + 1) % N_VOCAB for token in future[n_right:n_drafts]]
    return Draft.chain([*future[:n_right], *wrong]).below(root)


def check_conversation(bench: Bench, rng: np.random.Generator, n_steps: int) -> None:
    """Steps with random drafts after a random prompt; the truth is computed once, for all of them."""
    prompt = rng.integers(0, N_VOCAB, rng.integers(1, 40)).tolist()
    future, logits = bench.truth(prompt, (MAX_DRAFTS + 1) * (n_steps + 1))
    session = bench.session()
    session.prefill(prompt)
    done = 0
    for _ in range(n_steps):
        assert session.root is not None
        n_drafts = int(rng.integers(0, MAX_DRAFTS + 1))
        n_right = int(rng.integers(0, n_drafts + 1))
        step = session.decode_tree(chain(session.root, future[done:], n_drafts, n_right), GREEDY)
        assert list(step.tokens) == future[done : done + n_right + 1]
        np.testing.assert_array_equal(session.seen[: n_right + 1], logits[done : done + n_right + 1])
        done += n_right + 1
    assert session.tokens == (prompt + future)[: len(prompt) + done - 1]


def check_patterns(bench: Bench, count: int, steps: int = 20) -> None:
    rng = np.random.default_rng(0)
    for _ in range(count // steps):
        check_conversation(bench, rng, steps)


def test_rollback_leaves_no_trace(bench: Bench) -> None:
    check_patterns(bench, 100)


@pytest.mark.slow
def test_rollback_leaves_no_trace_in_many_patterns(bench: Bench) -> None:
    check_patterns(bench, PATTERNS)
