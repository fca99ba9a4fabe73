"""The pool of models: each is loaded once, in a bounded memory, and never closed while it is in use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from pass_edge.native.errors import ModelError, SettingsError
from pass_edge.native.file_kind import Kind
from pass_edge.server.model_pool import ModelPool, ModelSource, ServedModel

SIZES = {"a": 3, "b": 4, "c": 5, "d": 9}
MEMORY = 9


class Fakes:
    """Engines that only say whether they are open. ``events``: what was opened ("+a") and closed ("-a")."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.broken: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def source(self, name: str) -> ModelSource:
        return ModelSource(name, Kind.TEXT, lambda: Fake(name, self), n_bytes=SIZES[name])

    def pool(self, names: str = "abcd", **options: Any) -> ModelPool:
        return ModelPool([self.source(name) for name in names], max_waiting=9, memory=MEMORY, **options)


class Fake:
    context_size = 8

    def __init__(self, name: str, fakes: Fakes) -> None:
        assert fakes.gate.wait(10)
        if name in fakes.broken:
            raise ModelError(f"{name} is damaged")
        self.name, self.fakes, self.is_open = name, fakes, True
        fakes.events.append(f"+{name}")

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False
        self.fakes.events.append(f"-{self.name}")


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


async def use(pool: ModelPool, name: str, until: Callable[[], Awaitable[object]] | None = None) -> None:
    """As a request does: hold the engine of ``name`` until ``until`` has come."""
    with ExitStack() as held:
        engine = await pool.hold(pool.find(name), held)
        assert engine.is_open
        if until:
            await until()
        assert engine.is_open
    assert sum(SIZES[each.name] for each in pool.models if each.loaded) <= MEMORY


def run(pool: ModelPool, work: Callable[[], Awaitable[object]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(), 10)

    with pool:
        asyncio.run(limited())


def named(pool: ModelPool, name: str) -> ServedModel:
    return pool.named(name)


def test_the_model_used_least_recently_makes_room(fakes: Fakes) -> None:
    pool = fakes.pool()

    async def work() -> None:
        for name in "abac":  # b has not been used for longest, and c fits in beside a
            await use(pool, name)
        assert fakes.events == ["+a", "+b", "-b", "+c"]
        await use(pool, "d")  # it needs the whole memory

    run(pool, work)
    assert fakes.events == ["+a", "+b", "-b", "+c", "-a", "-c", "+d", "-d"]
    assert [(each.loads, each.unloads) for each in pool.models] == [(1, 1), (1, 1), (1, 1), (1, 0)]


def test_an_idle_model_makes_room_before_a_busy_one(fakes: Fakes) -> None:
    pool, ended = fakes.pool(), asyncio.Event()

    async def work() -> None:
        busy = asyncio.create_task(use(pool, "a", ended.wait))  # used least recently, but in use
        await asyncio.sleep(0.05)
        await use(pool, "b")
        await use(pool, "c")
        assert fakes.events == ["+a", "+b", "-b", "+c"]
        ended.set()
        await busy

    run(pool, work)


def test_a_busy_model_is_unloaded_after_its_answer_and_keeps_nobody_out(fakes: Fakes) -> None:
    pool, ended = fakes.pool(), asyncio.Event()

    async def work() -> None:
        busy = asyncio.create_task(use(pool, "a", ended.wait))
        await asyncio.sleep(0.05)
        large = asyncio.create_task(use(pool, "d"))
        await asyncio.sleep(0.05)
        assert fakes.events == ["+a"]
        later = asyncio.create_task(use(pool, "a"))  # behind the request that waits for room
        ended.set()
        await asyncio.gather(busy, large, later)

    run(pool, work)
    assert fakes.events == ["+a", "-a", "+d", "-d", "+a", "-a"]


def test_requests_for_one_model_load_it_once(fakes: Fakes) -> None:
    pool = fakes.pool()

    async def work() -> None:
        fakes.gate.clear()
        tasks = [asyncio.create_task(use(pool, "a")) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert [each.status for each in pool.models] == ["loading", *["unloaded"] * 3]
        tasks.pop().cancel()  # one that gives up does not end the load
        fakes.gate.set()
        await asyncio.gather(*tasks)

    run(pool, work)
    assert fakes.events == ["+a", "-a"]


def test_loading_one_model_does_not_hold_up_another(fakes: Fakes) -> None:
    pool = fakes.pool()

    async def work() -> None:
        await use(pool, "a")
        fakes.gate.clear()
        loading = asyncio.create_task(use(pool, "b"))
        await asyncio.sleep(0.05)
        for _ in range(3):
            await use(pool, "a")
        assert not loading.done()
        fakes.gate.set()
        await loading

    run(pool, work)


def test_a_load_that_fails_is_told_to_all_and_tried_again_later(fakes: Fakes) -> None:
    notes: list[str] = []
    pool = fakes.pool(note=notes.append)
    fakes.broken.add("b")

    async def work() -> None:
        await use(pool, "a")
        results = await asyncio.gather(*(use(pool, "b") for _ in range(3)), return_exceptions=True)
        for error in results:
            assert isinstance(error, HTTPException)
            assert (error.status_code, error.detail) == (500, "b cannot be loaded: b is damaged")
        assert (named(pool, "b").failed_loads, named(pool, "b").failure) == (1, "b is damaged")
        assert named(pool, "b").status == "unloaded"
        await use(pool, "a")
        fakes.broken.clear()
        await use(pool, "b")
        assert named(pool, "b").failure == ""

    run(pool, work)
    assert "b cannot be loaded: b is damaged" in notes


def test_an_unexpected_error_while_loading_is_told_without_its_details() -> None:
    def fails() -> Any:
        raise RuntimeError("a secret")

    pool = ModelPool([ModelSource("a", Kind.TEXT, fails)], max_waiting=1)

    async def work() -> None:
        with pytest.raises(HTTPException) as raised:
            await use(pool, "a")
        assert "secret" not in raised.value.detail

    run(pool, work)


def test_a_model_that_never_fits_is_refused_and_unloads_none(fakes: Fakes) -> None:
    pool = fakes.pool()
    pool.memory = 8

    async def work() -> None:
        await use(pool, "a")
        with pytest.raises(HTTPException, match="d cannot be loaded: it needs about"):
            await use(pool, "d")

    run(pool, work)
    assert fakes.events == ["+a", "-a"]


def test_a_single_model_is_loaded_whatever_the_memory(fakes: Fakes) -> None:
    pool = fakes.pool("d")
    pool.memory = 1
    run(pool, lambda: use(pool, "anything"))
    assert fakes.events == ["+d", "-d"]


def test_closing_waits_for_a_load_and_frees_it(fakes: Fakes) -> None:
    pool = fakes.pool()

    async def work() -> None:
        fakes.gate.clear()
        task = asyncio.create_task(use(pool, "a"))
        await asyncio.sleep(0.05)
        task.cancel()
        assert pool.is_loading
        threading.Timer(0.1, fakes.gate.set).start()

    run(pool, work)
    assert fakes.events == ["+a", "-a"]


def test_names_must_differ(fakes: Fakes) -> None:
    with pytest.raises(SettingsError, match="--alias"):
        fakes.pool("aba")


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 4), st.booleans()), min_size=1, max_size=25)
)
def test_whatever_is_asked_in_whatever_order_is_answered(requests: list[tuple[str, int, bool]]) -> None:
    """Requests come one after the other, hold their model for a while, and some give up."""
    fakes = Fakes()
    pool = fakes.pool()

    async def pause(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0.0005)

    async def work() -> None:
        tasks, leaving = [], []
        for name, turns, gives_up in requests:
            task = asyncio.create_task(use(pool, name, lambda turns=turns: pause(turns)))
            (leaving if gives_up else tasks).append(task)
            await pause(turns % 2)
            if gives_up:
                task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.gather(*leaving, return_exceptions=True)

    run(pool, work)
    held = 0
    for event in fakes.events:  # the memory was never exceeded, and at the end nothing is left
        held += SIZES[event[1]] * (1 if event[0] == "+" else -1)
        assert 0 <= held <= MEMORY
    assert held == 0
