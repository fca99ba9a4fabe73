"""Parallel conversations: each gets the bits that it would get alone, whatever the others do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass_edge import ContextError, Engine, Generation, Sampling, Settings
from pass_edge.decoding.batcher import Batcher
from pass_edge.decoding.kv_cache import KVCache, sequences_needed
from pass_edge.drafting.schedules import FixedSchedule, plain
from pass_edge.native.context import Context, ContextSettings
from pass_edge.planning.cost_model import StepCosts
from pass_edge.planning.planner import Planner
from tests.support.at_once import at_once
from tests.support.draft_trees import build, tree_forms
from tests.support.reference_decoding import CACHE, DEPTH, GREEDY, Bench, Recording

PARALLEL = 3


# -- to the bit, on a tiny model --------------------------------------------------------------------------


class Crowd:
    """Sessions over one small context, and the truth that each must give."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.context = Context(
            bench.model,
            # small, so that gaps force compactions
            ContextSettings(
                cells=320, sequences=sequences_needed(len(bench.prefix), PARALLEL), threads=1, **CACHE
            ),
        )

    def sessions(self) -> list[Recording]:
        passes = Batcher(self.context, self.bench.inputs, parallel=PARALLEL)
        return [Recording(passes, FixedSchedule(plain), number) for number in range(PARALLEL)]

    def check_step(self, session: Recording, form: Any) -> None:
        assert session.root is not None
        future, logits = self.bench.truth([*session.tokens, session.root], 9)
        step = session.decode_tree(build(form, session.root, future, self.bench.model.n_vocab), GREEDY)
        np.testing.assert_array_equal(session.seen[0], logits[0])
        assert list(step.tokens) == future[: len(step.tokens)]


@pytest.fixture(scope="module", params=[0, 5], ids=["no prefix", "prefix"])
def crowd(tiny_path: Path, request: pytest.FixtureRequest) -> Iterator[Crowd]:
    bench = Bench(tiny_path, 96, request.param, threads=1)
    crowd = Crowd(bench)
    yield crowd
    crowd.context.close()
    bench.close()


actions = st.lists(
    st.tuples(
        st.integers(0, PARALLEL - 1),  # who
        st.one_of(
            tree_forms(),  # a step
            st.tuples(st.integers(0, 30), st.lists(st.integers(0, 11), min_size=1, max_size=12)),  # a prompt
            st.just("forget"),
        ),
    ),
    min_size=1,
    max_size=20,
)


def play(crowd: Crowd, script: Sequence[tuple[int, Any]]) -> None:
    sessions = crowd.sessions()
    for who, action in script:
        session = sessions[who]
        if action == "forget":
            session.forget()
        elif len(action) == 2:
            session.prefill([*session.tokens[: action[0]], *action[1]])
        elif session.root is not None and len(session.tokens) < 70:
            crowd.check_step(session, action)
    for session in sessions:
        if session.root is not None:
            crowd.check_step(session, ([-1], [True], [0]))


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(script=actions)
def test_whatever_others_do_leaves_no_trace(crowd: Crowd, script: list[tuple[int, Any]]) -> None:
    play(crowd, script)


SECOND_CHILD = ([-1, 0, 0], [True, False, True], [0, 0, 0])
LATE = [  # the drafts of one are rejected before the cells of another, and that one's text is cut
    (0, (0, [1, 2, 3, 4])),
    (1, (0, [5, 6, 7])),
    *[(who, SECOND_CHILD) for who in (0, 1)] * 4,
    (0, (3, [9, 9])),
    *[(who, SECOND_CHILD) for who in (1, 0)] * 4,
]


def test_gaps_among_conversations_are_kept(crowd: Crowd) -> None:
    play(crowd, LATE)


def test_without_the_spacer_the_bits_differ(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KVCache, "reserve_gap", lambda *_: None)
    with pytest.raises(AssertionError):
        play(crowd, LATE)


def test_compactions_keep_all_conversations(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    compact, compactions = KVCache.compact, []
    monkeypatch.setattr(KVCache, "compact", lambda cache: (compactions.append(1), compact(cache)))
    prompts = [(who, (0, [who + 1, 2, 3])) for who in range(PARALLEL)]
    steps = [(who, SECOND_CHILD) for who in range(PARALLEL)]
    play(crowd, [*prompts, *steps * 25] * 2)
    assert compactions, "the cache never filled up; the test shows nothing"


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(forms=st.lists(st.lists(tree_forms(), min_size=1, max_size=DEPTH), min_size=2, max_size=PARALLEL))
def test_joint_passes_give_each_what_it_would_get_alone(crowd: Crowd, forms: list[list[Any]]) -> None:
    prompts = [[i + 1, 4, i + 2] for i in range(len(forms))]
    truths = [crowd.bench.truth(prompt, 8 * (DEPTH + 1)) for prompt in prompts]
    sessions = crowd.sessions()

    def work(i: int) -> bool:
        session, (future, logits), done = sessions[i], truths[i], 0
        session.prefill(prompts[i])
        for form in forms[i]:
            assert session.root is not None
            step = session.decode_tree(build(form, session.root, future[done:], 12), GREEDY)
            np.testing.assert_array_equal(session.seen[0], logits[done])
            assert list(step.tokens) == future[done : done + len(step.tokens)]
            done += len(step.tokens)
        return True

    assert all(at_once(*(lambda i=i: work(i) for i in range(len(forms)))))


def test_a_failed_pass_empties_those_who_shared_it_and_nobody_else(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = crowd.sessions()
    for who, session in enumerate(sessions):
        session.prefill([who + 1, 2, 3])

    def refused(*_: object) -> None:
        raise ContextError("refused")

    monkeypatch.setattr(crowd.context, "decode_tokens", refused)
    with pytest.raises(ContextError):
        sessions[0].step(GREEDY)
    monkeypatch.undo()
    assert [len(session.tokens) for session in sessions] == [0, 2, 2]
    sessions[0].prefill([1, 2, 3])
    for session in sessions:
        crowd.check_step(session, SECOND_CHILD)


# -- through the engine -------------------------------------------------------------------------------------

SAMPLINGS = [Sampling(temperature=0), Sampling(temperature=0.8, seed=7), Sampling(temperature=1.2, seed=8)]
QUESTIONS = [
    "Repeat this sentence ten times: the quick brown fox jumps over the lazy dog.",
    "Name three rivers.",
    "Count from one to thirty in words.",
    "Write the word 'tree' twenty times, with commas.",
]


def asked(engine: Engine, i: int, max_tokens: int = 60) -> Generation:
    message = {"role": "user", "content": QUESTIONS[i % len(QUESTIONS)]}
    return engine.chat([message], sampling=SAMPLINGS[i % len(SAMPLINGS)], max_tokens=max_tokens)


@pytest.mark.parametrize("schedule", ["auto", "head", "plain"])
def test_the_default_model_gives_each_its_own_text(model_path: Path, schedule: str) -> None:
    settings = Settings(schedule=schedule, context_size=512, threads=1)
    with Engine(model_path, settings=settings) as alone:
        expected = [asked(alone, i).run().ids for i in range(5)]
    with Engine(model_path, settings=replace(settings, parallel=4)) as engine:
        got = at_once(*(lambda i=i: asked(engine, i).run() for i in range(5)))
    assert [generation.ids for generation in got] == expected


@pytest.fixture
def engine(speaking_path: Path) -> Iterator[Engine]:
    with Engine(speaking_path, settings=Settings(threads=1, parallel=PARALLEL)) as engine:
        yield engine


def test_drafts_are_accepted_in_joint_passes(engine: Engine) -> None:
    # a chance that is sure, and rows that cost nothing: whatever repeats itself is drafted
    costs = StepCosts(np.array([1.0, 32.0]), np.array([1.0, 1.001]) * 1e-3, np.zeros(2))
    for session in engine.sessions:
        session._schedule = Planner(costs)
    sampling = Sampling(temperature=0)
    prompts = ["the yes " * 20, "no answer " * 20, "true the " * 20]
    got = at_once(*(lambda p=p: engine.stream(p, sampling=sampling, max_tokens=200).run() for p in prompts))
    alone = [engine.stream(p, sampling=sampling, max_tokens=200).run() for p in prompts]
    assert [generation.ids for generation in got] == [generation.ids for generation in alone]
    assert sum(sum(generation.stats.accepted) for generation in got) > 100


def test_passes_are_shared(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = []
    decode = Batcher._decode_trees

    def counting(self: Batcher, batch: Any) -> Any:
        results = decode(self, batch)
        shared.extend(result.n_sharing for result in results)
        return results

    monkeypatch.setattr(Batcher, "_decode_trees", counting)
    sampling = Sampling(temperature=1.0, seed=4, logit_bias={2: -100})
    at_once(*(lambda: engine.stream("one", sampling=sampling, max_tokens=100).run() for _ in range(PARALLEL)))
    assert shared.count(PARALLEL) > 200


def test_narrow_passes_go_by_turns(speaking_path: Path) -> None:
    with Engine(speaking_path, settings=Settings(threads=1, parallel=4, schedule="plain")) as engine:
        expected = [engine.stream("one", sampling=SAMPLINGS[1], max_tokens=80).run().ids] * 4
        engine.session._batcher._max_rows = 2
        ends: list[float] = []

        def work() -> list[int]:
            ids = engine.stream("one", sampling=SAMPLINGS[1], max_tokens=80).run().ids
            ends.append(time.monotonic())
            return ids

        began = time.monotonic()
        assert at_once(work, work, work, work) == expected
        assert (min(ends) - began) > 0.8 * (max(ends) - began)


def test_a_conversation_finds_its_own_cells_again(engine: Engine) -> None:
    sampling = Sampling(temperature=0)
    prompts = [f"{word} {'the yes no ' * 8}" for word in ("answer", "true", "false")]
    answers = [engine.stream(p, sampling=sampling, max_tokens=5).run() for p in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        again = engine.stream([*engine.tokenize(prompt), *answer.ids, 5], sampling=sampling, max_tokens=3)
        assert again.run().stats.reused_tokens >= len(engine.tokenize(prompt)) + len(answer.ids) - 1


def test_a_cancelled_generation_frees_its_slot(engine: Engine) -> None:
    long = {"sampling": Sampling(temperature=1.0, seed=3, logit_bias={2: -100})}
    running = [engine.stream("the yes", **long) for _ in range(PARALLEL)]  # type: ignore[arg-type]
    threads = [threading.Thread(target=generation.run) for generation in running]
    for thread in threads:
        thread.start()
    while not all(generation.ids for generation in running):
        time.sleep(0.001)
    waiting = threading.Thread(target=engine.stream("no", max_tokens=3).run)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive(), "there are only so many slots"
    running[1].cancel()
    waiting.join(10)
    assert not waiting.is_alive()
    for generation, thread in zip(running, threads, strict=True):
        generation.cancel()
        thread.join(10)


def test_a_slow_reader_holds_nobody_up(engine: Engine) -> None:
    slow = iter(engine.stream("the yes", sampling=Sampling(temperature=1.0, seed=3, logit_bias={2: -100})))
    next(slow)  # and then it reads no more
    began = time.monotonic()
    got = at_once(*(lambda: engine.stream("no", max_tokens=50).run().ids for _ in range(4)))
    assert len(got) == 4
    assert time.monotonic() - began < 10
    assert next(slow)


def test_four_of_a_kind_go_equally_fast(engine: Engine) -> None:
    sampling = Sampling(temperature=1.0, seed=4, logit_bias={2: -100})
    running = [engine.stream("one", sampling=sampling, max_tokens=2000) for _ in range(PARALLEL)]
    threads = [threading.Thread(target=generation.run) for generation in running]
    for thread in threads:
        thread.start()
    while not all(len(generation.ids) > 20 for generation in running):
        time.sleep(0.001)
    before = [len(generation.ids) for generation in running]
    time.sleep(0.5)
    made = [len(generation.ids) - n for generation, n in zip(running, before, strict=True)]
    for generation, thread in zip(running, threads, strict=True):
        generation.cancel()
        thread.join(10)
    assert min(made) > 0.8 * max(made)
