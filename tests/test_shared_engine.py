"""One engine, many users: threads and tasks wait for each other, an abandoned iteration blocks nobody, and a
forked process is told to make its own engine."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pass_edge import Engine, LibraryError, PassEdgeError, Sampling, Settings

SAMPLING = Sampling(temperature=1.0, seed=4)
PROMPTS = ["one", "two the", "three", "the the the"]


@pytest.fixture
def engine(speaking_path: Path) -> Iterator[Engine]:
    with Engine(speaking_path, settings=Settings(threads=1)) as engine:
        yield engine


def answers(engine: Engine) -> list[list[int]]:
    return [engine.stream(prompt, sampling=SAMPLING, max_tokens=40).run().ids for prompt in PROMPTS]


def test_calls_from_several_threads_wait_for_each_other(engine: Engine) -> None:
    alone = answers(engine)
    got: dict[int, list[list[int]]] = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: answers(engine)})) for i in range(6)]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(switching)
    assert [got[i] for i in range(6)] == [alone] * 6


def test_generations_by_turns_in_one_thread_keep_their_texts(engine: Engine) -> None:
    alone = answers(engine)
    running = [engine.stream(prompt, sampling=SAMPLING, max_tokens=40) for prompt in PROMPTS]
    loops = [iter(generation) for generation in running]
    while loops:
        loops = [loop for loop in loops if next(loop, None) is not None]
    assert [generation.ids for generation in running] == alone


def test_a_loop_that_was_left_holds_nobody_up(engine: Engine) -> None:
    abandoned = iter(engine.stream("one", sampling=SAMPLING, max_tokens=40))
    next(abandoned)
    assert engine.stream("two", max_tokens=3).run().finish_reason  # the same thread
    next(abandoned)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (engine.stream("two", max_tokens=3).run(), done.set()))
    thread.start()
    assert not done.wait(0.2)  # another one waits
    del abandoned
    assert done.wait(10)
    thread.join()


def test_cancel_ends_it_within_a_step(engine: Engine) -> None:
    generation = engine.stream("one", sampling=SAMPLING)
    for _ in generation:
        passes = generation.stats.passes
        generation.cancel()
    assert generation.stats.passes == passes
    assert generation.finish_reason == "cancelled"


def test_cancel_ends_a_long_prompt_within_a_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = engine.stream("the " * 300)
    decode, batches = engine.session._context.decode_tokens, []

    def decode_and_cancel(*arguments: object) -> None:
        decode(*arguments)  # type: ignore[arg-type]
        batches.append(1)
        generation.cancel()

    monkeypatch.setattr(engine.session._context, "decode_tokens", decode_and_cancel)
    assert generation.run().finish_reason == "cancelled"
    assert len(batches) == 1
    monkeypatch.undo()
    again = engine.stream("the " * 300, max_tokens=2).run()
    assert again.stats.reused_tokens == 512  # what was decoded is not lost


def test_async_iteration_gives_the_same_text_and_leaves_the_loop_free(engine: Engine) -> None:
    expected = engine.stream("one", sampling=SAMPLING, max_tokens=200).run().text

    async def main() -> tuple[list[str], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async def answer() -> str:
            return "".join([piece async for piece in engine.stream("one", sampling=SAMPLING, max_tokens=200)])

        ticking = asyncio.ensure_future(tick())
        texts = await asyncio.gather(answer(), answer(), answer())
        ticking.cancel()
        return texts, ticks

    texts, ticks = asyncio.run(main())
    assert texts == [expected] * 3
    assert ticks > 100


def test_a_cancelled_task_gives_its_turn_back(engine: Engine) -> None:
    async def main() -> None:
        generation = engine.stream("one", sampling=SAMPLING)

        async def consume() -> None:
            async for _ in generation:
                pass

        task = asyncio.ensure_future(consume())
        while not generation.ids:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert engine.stream("two", max_tokens=2).run().finish_reason == "length"


def test_closing_waits_for_the_answer_under_way_and_ends_all_others(speaking_path: Path) -> None:
    engine = Engine(speaking_path, settings=Settings(threads=1))
    first, began = engine.stream("one", sampling=SAMPLING, max_tokens=300), threading.Event()

    def consume() -> None:
        for _ in first:
            began.set()

    thread = threading.Thread(target=consume)
    thread.start()
    began.wait(10)
    engine.close()
    assert first.finish_reason in ("length", "stop")
    thread.join()
    engine.close()
    for call in (lambda: engine.stream("x"), lambda: engine.tokenize("x"), lambda: engine.render([])):
        with pytest.raises(PassEdgeError, match="closed"):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_is_told_to_make_its_own(engine: Engine) -> None:
    suspended = engine.stream("one")
    next(iter(suspended))

    def child(sender) -> None:  # type: ignore[no-untyped-def]
        said = []
        for call in (lambda: engine.stream("x"), lambda: list(suspended), lambda: engine.tokenize("x")):
            try:
                call()
            except LibraryError as error:
                said.append("fork" in str(error))
        engine.close()
        sender.send(said)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(sender,))
    process.start()
    assert receiver.poll(20)
    assert receiver.recv() == [True, True, True]
    process.join(20)
    assert process.exitcode == 0
    assert engine.stream("x", max_tokens=2).run().ids
