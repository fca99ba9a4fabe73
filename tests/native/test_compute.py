"""One thread computes for all others, and an interrupt waits until it has finished."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pass_edge.native.compute import compute


def test_whoever_asks_one_thread_computes_and_a_child_has_its_own() -> None:
    found = [compute(threading.get_ident)]
    asking = threading.Thread(target=lambda: found.append(compute(threading.get_ident)))
    asking.start()
    asking.join()
    assert found[0] == found[1] != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        compute(lambda: 1 // 0)
    child = os.fork()
    if not child:
        os._exit(compute(lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


class TimeOverError(Exception):
    """What a program's own handler of a signal raises."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, TimeOverError])
def test_an_interrupt_waits_until_what_is_computed_is_done(raised: type[BaseException]) -> None:
    done: list[bool] = []

    def interrupt(*_: object) -> None:
        raise raised

    def work() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.4)
        done.append(True)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(raised):
            compute(work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done
