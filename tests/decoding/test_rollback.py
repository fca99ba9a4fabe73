"""Rollback leaves no trace: whatever was drafted, accepted, rejected or reused, what follows has the
bits of a context that never saw it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge.decoding.batcher import Batcher, BatchResult, Inputs
from pass_edge.decoding.kv_cache import KVCache, sequences_needed
from pass_edge.decoding.session import Session
from pass_edge.drafting.drafter import PassOutput
from pass_edge.drafting.schedules import FixedSchedule, plain
from pass_edge.drafting.tree import DraftTree
from pass_edge.native.batch import rows_of_sequence
from pass_edge.native.context import Context, ContextSettings
from pass_edge.native.embeddings import TokenEmbeddings
from pass_edge.native.model import Model
from pass_edge.sampling.sampler import Sampler, Sampling

GREEDY = Sampler(Sampling(temperature=0))
N_LOOKAHEAD = 3
DEPTH = 5
CACHE = {"cache_type_k": "q8_0", "cache_type_v": "f16"}


class Recording(Session):
    """A session that keeps the logits of the last decode, row by row."""

    def _outcome(self, part: BatchResult, *more: Any) -> PassOutput:
        self.seen = part.logits.copy()
        return super()._outcome(part, *more)


class Bench:
    """A model with two contexts: one that is drafted in, one that only ever decodes what is committed."""

    def __init__(self, path: Path, cells: int, n_prefix: int = 0, threads: int = 2) -> None:
        self.model = Model(path)
        sequences = sequences_needed(n_prefix)
        settings = ContextSettings(cells=cells, sequences=sequences, threads=threads, **CACHE)
        self.drafting = Context(self.model, settings)
        self.reference = Context(self.model, settings)
        embeddings = TokenEmbeddings(self.model.path)
        scale = np.abs(embeddings.rows(np.arange(8, dtype=np.int32))).mean()
        rng = np.random.default_rng(1)
        rows = rng.standard_normal((N_LOOKAHEAD + n_prefix, self.model.n_embd), np.float32) * scale
        self.lookahead, self.prefix = rows[:N_LOOKAHEAD], rows[N_LOOKAHEAD:]
        self.inputs = Inputs(embeddings, self.lookahead, self.prefix)

    def session(self) -> Recording:
        return Recording(Batcher(self.drafting, self.inputs), FixedSchedule(plain))

    def truth(self, prompt: list[int], count: int) -> tuple[list[int], list[np.ndarray]]:
        """``count`` greedy tokens after ``prompt`` and the logits that gave each, decoded one by one in
        an empty context."""
        self.reference.clear()
        if len(prompt) > 1:
            self.reference.decode_tokens(
                rows_of_sequence(0, len(prompt) - 1), np.array(prompt[:-1], np.int32)
            )
        tokens, logits = [prompt[-1]], []
        for position in range(len(prompt) - 1, len(prompt) - 1 + count):
            rows = rows_of_sequence(position, 1, outputs=1)
            self.reference.decode_tokens(rows, np.array(tokens[-1:], np.int32))
            logits.append(self.reference.logits(1)[0].copy())
            tokens.append(int(logits[-1].argmax()))
        return tokens[1:], logits

    def ahead(self, tokens: list[int]) -> np.ndarray:
        """Logits of the lookahead tokens behind ``tokens``, of a sequence that nothing was drafted in."""
        self.reference.clear()
        if len(self.prefix):
            self.reference.decode_embeddings(rows_of_sequence(0, len(self.prefix), sequence=1), self.prefix)
        self.reference.decode_tokens(rows_of_sequence(0, len(tokens)), np.array(tokens, np.int32))
        self.reference.copy(0, 1, 0)
        rows = rows_of_sequence(len(tokens), N_LOOKAHEAD, sequence=1, outputs=N_LOOKAHEAD)
        self.reference.decode_embeddings(rows, self.lookahead)
        return self.reference.logits(N_LOOKAHEAD).copy()

    def close(self) -> None:
        self.drafting.close()
        self.reference.close()
        self.model.close()


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


@st.composite
def tree_forms(draw: st.DrawFn) -> tuple[list[int], list[bool], list[int]]:
    """Parents, whether each node drafts the truth, and lookahead tokens at each node."""
    n = draw(st.integers(1, 8))
    parents = [-1] + [draw(st.integers(0, i - 1)) for i in range(1, n)]
    right = [True] + [draw(st.booleans()) for _ in range(1, n)]
    groups = [draw(st.integers(0, N_LOOKAHEAD)) for _ in range(n)]
    return parents, right, groups


def build(
    form: tuple[list[int], list[bool], list[int]], root: int, future: list[int], n_vocab: int
) -> DraftTree:
    parents, right, groups = form
    depths, tokens = [0], [root]
    for node in range(1, len(parents)):
        depths.append(depths[parents[node]] + 1)
        true_token = future[depths[node] - 1]
        siblings = {tokens[i] for i in range(1, node) if parents[i] == parents[node]}
        token = true_token if right[node] else (true_token + 1 + node) % n_vocab
        while token in siblings:
            token = (token + 1) % n_vocab
        tokens.append(token)
    return DraftTree(tuple(tokens), tuple(parents), tuple(groups))


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversation=turns)
def test_rollback_leaves_no_trace(tiny: Bench, conversation: list) -> None:
    run_turns(tiny, conversation)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversation=turns)
def test_rollback_leaves_no_trace_in_the_default_model(real: Bench, conversation: list) -> None:
    run_turns(real, conversation)


def test_gaps_are_compacted_and_leave_no_trace(tiny: Bench) -> None:
    # the second child is always the right one: each step leaves the first one's cell as a gap
    session = tiny.session()
    form = ([-1, 0, 0], [True, False, True], [1, 1, 1])
    compactions = []
    cache = session._passes._cache
    cache.compact = lambda: (compactions.append(1), KVCache.compact(cache))  # type: ignore[method-assign]
    check_turn(tiny, session, [1, 2, 3], [form] * 35)
    assert compactions, "the cache never filled up; the test shows nothing"


def test_gaps_are_compacted_for_a_long_prompt(tiny: Bench) -> None:
    session = tiny.session()
    check_turn(tiny, session, [1, 2, 3], [([-1, 0, 0], [True, False, True], [0, 0, 0])] * 25)
    check_turn(tiny, session, [*session.tokens[:8], *[4] * 60], [])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
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

    monkeypatch.setattr(session._cells, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.step(GREEDY)
    monkeypatch.undo()
    assert session.tokens == []
    check_turn(tiny, session, [1, 2, 3], [([-1, 0], [True, True], [1, 1])])
