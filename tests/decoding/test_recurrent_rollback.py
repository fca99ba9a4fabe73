"""Rollback of recurrent and hybrid memories leaves no trace, for each kind of llama.cpp's graphs.

A chain is drafted, of which any number of tokens is right. What follows has the bits of a context that
decoded only what was accepted, one token at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge import ContextError
from pass_edge.decoding.batcher import Batcher, TreeRequest
from pass_edge.decoding.kv_cache import KVCache, sequences_needed
from pass_edge.drafting.schedules import FixedSchedule, plain
from pass_edge.drafting.tree import Draft, DraftTree
from pass_edge.native.context import Context
from tests.support.at_once import at_once
from tests.support.recurrent_models import KEEPS_STATES, KINDS, N_VOCAB
from tests.support.reference_decoding import GREEDY, Bench, Recording

MAX_DRAFTS, FEW_STATES = 8, 3
"""Most drafts of a pass; fewer states than drafts, so that a copy rolls back further ones."""
PARALLEL = 4

prompts = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=40)
n_drafts_and_right = st.integers(0, MAX_DRAFTS).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
patterns = st.lists(n_drafts_and_right, min_size=1, max_size=6)
"""Of each pass of a conversation, how many tokens are drafted and how many of these are right."""
every_check = list(HealthCheck)  # examples share a context, and take as long as the machine makes them


@pytest.fixture(
    scope="module",
    params=[*((kind, MAX_DRAFTS) for kind in KINDS), *((kind, FEW_STATES) for kind in KEEPS_STATES)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def bench(request: pytest.FixtureRequest, recurrent_path: Callable[[str], Path]) -> Iterator[Bench]:
    kind, n_kept = request.param
    bench = Bench(recurrent_path(kind), 768, threads=1, rollback=n_kept)
    assert bench.drafting.n_rollback == (n_kept if kind in KEEPS_STATES else 0)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def crowd(bench: Bench) -> Iterator[Context]:
    """A small context for several conversations: gaps force compactions."""
    sequences = sequences_needed(0, PARALLEL, chains_only=True)
    settings = replace(bench.drafting.settings, cells=512, sequences=sequences)
    with Context(bench.model, settings) as context:
        yield context


def sessions_in(context: Context) -> list[Recording]:
    batcher = Batcher(context, parallel=PARALLEL)
    return [Recording(batcher, FixedSchedule(plain), number) for number in range(PARALLEL)]


def chain(root: int, future: list[int], n_drafts: int, n_right: int) -> DraftTree:
    """A chain of which the first ``n_right`` drafts are the tokens that follow, and the next one is not."""
    wrong = [(token + 1) % N_VOCAB for token in future[n_right:n_drafts]]
    return Draft.chain([*future[:n_right], *wrong]).below(root)


class Conversation:
    """A session, and the tokens and logits that must follow ``prompt``, computed once for ``n_steps``."""

    def __init__(self, bench: Bench, session: Recording, prompt: list[int], n_steps: int) -> None:
        self.session, self.prompt, self.done = session, prompt, 0
        self.future, self.logits = bench.truth(prompt, (MAX_DRAFTS + 1) * (n_steps + 1))

    def begin(self) -> None:
        self.session.prefill(self.prompt)

    def step(self, n_drafts: int, n_right: int) -> None:
        session, done = self.session, self.done
        assert session.root is not None
        step = session.decode_tree(chain(session.root, self.future[done:], n_drafts, n_right), GREEDY)
        self.done = end = done + n_right + 1
        assert list(step.tokens) == self.future[done:end]
        np.testing.assert_array_equal(session.seen[: n_right + 1], self.logits[done:end])
        assert session.tokens == (self.prompt + self.future)[: len(self.prompt) + end - 1]

    def random_steps(self, rng: np.random.Generator, count: int) -> None:
        for _ in range(count):
            n_drafts = int(rng.integers(0, MAX_DRAFTS + 1))
            self.step(n_drafts, int(rng.integers(0, n_drafts + 1)))


def random_prompt(rng: np.random.Generator, longest: int = 40) -> list[int]:
    return [int(token) for token in rng.integers(0, N_VOCAB, rng.integers(1, longest))]


def check_pattern(bench: Bench, prompt: list[int], pattern: list[tuple[int, int]]) -> None:
    conversation = Conversation(bench, bench.session(), prompt, len(pattern))
    conversation.begin()
    for n_drafts, n_right in pattern:
        conversation.step(n_drafts, n_right)


@settings(max_examples=20, suppress_health_check=every_check)
@given(prompt=prompts, pattern=patterns)
def test_rollback_leaves_no_trace(bench: Bench, prompt: list[int], pattern: list[tuple[int, int]]) -> None:
    check_pattern(bench, prompt, pattern)


def test_any_number_of_rejected_drafts_is_rolled_back(bench: Bench) -> None:
    for n_drafts in range(MAX_DRAFTS + 1):
        conversation = Conversation(bench, bench.session(), [3, 1, 4], n_drafts + 2)
        conversation.begin()
        conversation.step(0, 0)  # so that the copy of the prompt's state is too old
        for n_right in range(n_drafts + 1):
            conversation.step(n_drafts, n_right)


@pytest.mark.slow
@settings(max_examples=1_000, suppress_health_check=every_check)
@given(prompt=prompts, pattern=patterns)
def test_rollback_leaves_no_trace_in_many_patterns(
    bench: Bench, prompt: list[int], pattern: list[tuple[int, int]]
) -> None:
    check_pattern(bench, prompt, pattern)


def test_a_wrong_state_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests can fail: if one token too many is taken back, or a copy of the state is damaged."""
    if bench.drafting.n_rollback:
        remove = Context.remove
        monkeypatch.setattr(
            Context, "remove", lambda context, sequence, start: remove(context, sequence, start - (start > 1))
        )
    else:
        restore = Context.restore_state

        def damaged(context: Context, sequence: int, state: np.ndarray, length: int) -> None:
            restore(context, sequence, np.where(np.arange(len(state)) < len(state) - 64, state, 0), length)

        monkeypatch.setattr(Context, "restore_state", damaged)
    rng = np.random.default_rng(0)
    conversation = Conversation(bench, bench.session(), random_prompt(rng), 20)
    conversation.begin()
    with pytest.raises((AssertionError, ContextError)):
        conversation.random_steps(rng, 20)


def test_a_tree_that_the_memory_cannot_verify_is_decoded_as_its_root(bench: Bench) -> None:
    conversation = Conversation(bench, bench.session(), [1, 2, 3], 3)
    conversation.begin()
    session, future = conversation.session, conversation.future
    assert session.root is not None
    branching = Draft((future[0], 5), (0, 0), (0.5, 0.5)).below(session.root)
    assert session.decode_tree(branching, GREEDY).tokens == (future[0],)
    assert session.decode_tree(chain(future[0], future[1:], 2, 2).without_lookahead(), GREEDY).tokens == (
        *future[1:4],
    )


def test_a_prompt_that_begins_like_the_last_one_is_read_from_its_end_on(bench: Bench) -> None:
    rng = np.random.default_rng(1)
    session = bench.session()
    prompt = random_prompt(rng)
    for _ in range(6):
        conversation = Conversation(bench, session, prompt, 3)
        conversation.begin()
        conversation.random_steps(rng, 3)
        kept = int(rng.integers(0, len(session.tokens) + 1))
        prompt = [*session.tokens[:kept], *random_prompt(rng, 8)]


def test_the_whole_last_pass_can_be_taken_back(bench: Bench) -> None:
    """The states that llama.cpp keeps begin with the one after the first token of a pass."""
    for n_drafts in (0, 1, MAX_DRAFTS):
        session = bench.session()
        first = Conversation(bench, session, [3, 1, 4, 1, 5], 2)
        first.begin()
        first.step(n_drafts, n_drafts)
        again = Conversation(bench, session, [3, 1, 4, 1, 9, 2], 2)
        assert session.prefill(again.prompt) == 4, "the state at the end of the prompt was kept"
        again.step(n_drafts, n_drafts // 2)


def test_conversations_leave_no_trace_in_each_other(bench: Bench, crowd: Context) -> None:
    rng = np.random.default_rng(2)
    sessions = sessions_in(crowd)
    for _ in range(6):
        prompts = [
            [*session.tokens[: int(rng.integers(0, 30))], *random_prompt(rng, 12)] for session in sessions
        ]
        conversations = [
            Conversation(bench, session, prompt, 3) for session, prompt in zip(sessions, prompts, strict=True)
        ]
        for conversation in conversations:
            conversation.begin()
        for _ in range(3):
            for conversation in rng.permutation(np.array(conversations, object)):
                conversation.random_steps(rng, 1)


def test_joint_passes_give_each_what_it_would_get_alone(bench: Bench, crowd: Context) -> None:
    sessions = sessions_in(crowd)
    batcher = sessions[0]._batcher
    conversations = [
        Conversation(bench, session, [i + 1, 4, i + 2], 10) for i, session in enumerate(sessions)
    ]
    shared: list[int] = []
    decode = batcher._decode_trees
    batcher._decode_trees = lambda batch: (shared.append(len(batch)), decode(batch))[1]  # type: ignore

    def work(i: int) -> bool:
        rng = np.random.default_rng(i)
        conversations[i].begin()
        for _ in range(10):  # of two sizes, so that some passes are shared
            n_drafts = int(rng.choice([0, 0, 4]))
            conversations[i].step(n_drafts, int(rng.integers(0, n_drafts + 1)))
        return True

    assert all(at_once(*(lambda i=i: work(i) for i in range(PARALLEL))))
    assert max(shared) > 1, "no pass was shared; the test shows nothing"


def test_only_trees_of_one_size_share_a_pass(bench: Bench, crowd: Context) -> None:
    """llama.cpp would cut other batches, and may move the kept states of those whose turn has been."""
    batcher = Batcher(crowd, parallel=PARALLEL)
    sizes = (4, 0, 4, 0)
    batcher._waiting = [
        TreeRequest(cache, 0, chain(0, [1] * n, n, n), finish=lambda _: None)
        for cache, n in zip(batcher.caches, sizes, strict=True)
    ]
    assert [request.n_rows for request in batcher._fitting_trees()] == [5, 5]


def test_compactions_keep_all_conversations(
    bench: Bench, crowd: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact, compactions = KVCache.compact, []
    monkeypatch.setattr(KVCache, "compact", lambda cache: (compactions.append(1), compact(cache)))
    sessions = sessions_in(crowd)
    conversations = [Conversation(bench, session, [i, 7], 20) for i, session in enumerate(sessions)]

    def work(conversation: Conversation) -> bool:
        conversation.begin()
        for _ in range(20):  # every pass leaves gaps, because others have later cells
            conversation.step(MAX_DRAFTS, 1)
        return True

    assert all(at_once(*(partial(work, conversation) for conversation in conversations)))
    assert compactions, "the cache never filled up; the test shows nothing"
