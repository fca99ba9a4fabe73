"""The slot pool: which session a conversation gets, and in which order waiting ones are served."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from pass_edge.decoding.slots import SlotPool


class Holding:
    """A session that holds ``tokens``."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    def shared_with(self, tokens: Sequence[int]) -> int:
        differs = (
            i for i, (mine, other) in enumerate(zip(self.tokens, tokens, strict=False)) if mine != other
        )
        return next(differs, min(len(self.tokens), len(tokens)))


def test_turns_go_by_the_order_of_asking() -> None:
    slots, order = SlotPool([Holding()]), []  # type: ignore[list-item]

    def ask(name: str) -> None:
        slots.acquire(name, [])
        order.append(name)
        slots.release(name)

    slots.acquire("first", [])
    threads = []
    for name in "abcdefgh":
        threads.append(threading.Thread(target=ask, args=(name,)))
        threads[-1].start()
        while name not in slots._waiting:
            time.sleep(0.001)
    slots.release("first")
    for thread in threads:
        thread.join(10)
    assert order == list("abcdefgh")


def test_a_slot_that_holds_the_prompt_is_preferred_else_the_one_used_least_recently() -> None:
    sessions: list[Any] = [Holding(1, 2, 3, 4), Holding(5, 6, 7, 8), Holding()]
    slots = SlotPool(sessions)

    def slot(*prompt: int) -> int:
        session, is_new = slots.acquire(prompt, prompt)
        slots.release(prompt)
        assert is_new
        return sessions.index(session)

    assert slot(5, 6, 7, 8, 9) == 1
    assert slot(1, 2, 3, 9) == 0
    assert slot(9, 9, 9, 9) == 2
    assert slot(1, 9, 9, 9) == 1, "one token is no reason to throw a conversation away"
