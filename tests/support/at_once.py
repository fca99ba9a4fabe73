"""Work in several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each of ``works``, run in threads of their own, gave."""
    got: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i, work=work: got.update({i: work()}))
        for i, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(got) == len(works), "one has failed, or hangs"
    return [got[i] for i in range(len(works))]
