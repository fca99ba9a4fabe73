"""Rollback leaves no trace: whatever was drafted, accepted, rejected or reused, what follows has the
bits of a context that never saw it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge.decoding.kv_cache import KVCache
from tests.support.draft_trees import build, tree_forms
from tests.support.reference_decoding import DEPTH, GREEDY, Bench, Recording


@pytest.fixture(scope="module", params=[0, 5], ids=["no prefix", "prefix"])
def tiny(tiny_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(tiny_path, 96, request.param)  # small, so that gaps force compactions
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def real(model_path: Path) -> Iterator[Bench]:
    bench = Bench(model_path, cells=768)
    yield bench
    bench.close()


def check_turn(bench: Bench, session: Recording, prompt: list[int], forms: list) -> None:
    # a node is at most 7 deep and a step commits at most 8 tokens
    future, logits = bench.truth(prompt, min(8 * (len(forms) + 1) + 8, 160))
    session.prefill(prompt)
    done = 0
    for form in [*forms, ([-1], [True], [0])]:
        assert session.root is not None
        step = session.decode_tree(build(form, session.root, future[done:], bench.model.n_vocab), GREEDY)
        np.testing.assert_array_equal(session.seen[0], logits[done])
        assert list(step.tokens) == future[done : done + len(step.tokens)]
        done += len(step.tokens)
    assert session.tokens == (prompt + future)[: len(prompt) + done - 1]


turns = st.lists(
    st.tuples(
        st.integers(0, 30),  # tokens of the conversation that the next prompt keeps
        st.lists(st.integers(0, 11), min_size=1, max_size=6),  # and what it adds
        st.lists(tree_forms(), min_size=0, max_size=DEPTH),
    ),
    min_size=1,
    max_size=3,
)


def run_turns(bench: Bench, conversation: list) -> None:
    session = bench.session()
    for keep, added, forms in conversation:
        check_turn(bench, session, session.tokens[:keep] + added, forms)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(conversation=turns)
def test_rollback_leaves_no_trace(tiny: Bench, conversation: list) -> None:
    run_turns(tiny, conversation)


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(conversation=turns)
def test_rollback_leaves_no_trace_in_the_default_model(real: Bench, conversation: list) -> None:
    run_turns(real, conversation)


def test_gaps_are_compacted_and_leave_no_trace(tiny: Bench) -> None:
    # the second child is always the right one: each step leaves the first one's cell as a gap
    session = tiny.session()
    form = ([-1, 0, 0], [True, False, True], [1, 1, 1])
    compactions = []
    cache = session._batcher._kv_cache
    cache.compact = lambda: (compactions.append(1), KVCache.compact(cache))  # type: ignore[method-assign]
    check_turn(tiny, session, [1, 2, 3], [form] * 35)
    assert compactions, "the cache never filled up; the test shows nothing"


def test_gaps_are_compacted_for_a_long_prompt(tiny: Bench) -> None:
    session = tiny.session()
    check_turn(tiny, session, [1, 2, 3], [([-1, 0, 0], [True, False, True], [0, 0, 0])] * 25)
    compactions = []
    cache = session._batcher._kv_cache
    cache.compact = lambda: (compactions.append(1), KVCache.compact(cache))  # type: ignore[method-assign]
    check_turn(tiny, session, [*session.tokens[:8], *[4] * 70], [])
    assert compactions, "the prompt fitted beside the gaps; the test shows nothing"


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    prompt=st.lists(st.integers(0, 11), min_size=6, max_size=12), forms=st.lists(tree_forms(), max_size=DEPTH)
)
def test_lookahead_tokens_see_the_path_to_their_node_and_the_prefix(
    tiny: Bench, prompt: list[int], forms: list
) -> None:
    session = tiny.session()
    check_turn(tiny, session, prompt, forms)
    future, _ = tiny.truth([*session.tokens, session.root or 0], 3)
    tree = build(([-1, 0, 0], [True, False, True], [2, 1, 3]), session.root or 0, future, 12)
    before = [*session.tokens, tree.tokens[0]]
    session.decode_tree(tree, GREEDY)
    for node, start, count in ((0, 3, 2), (1, 5, 1), (2, 6, 3)):
        path = before if not node else [*before, tree.tokens[node]]
        # the prefix lies in other cells there, which moves the last bits; without it, logits are nats away
        np.testing.assert_allclose(session.seen[start : start + count], tiny.ahead(path)[:count], atol=0.3)


def test_a_failed_step_leaves_an_empty_session(tiny: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny.session()
    session.prefill([1, 2, 3])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session._cache, "commit_path", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.step(GREEDY)
    monkeypatch.undo()
    assert session.tokens == []
    check_turn(tiny, session, [1, 2, 3], [([-1, 0], [True, True], [1, 1])])
