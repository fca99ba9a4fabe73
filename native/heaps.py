"""How the C library keeps memory for many threads."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8  # `malloc.h`
_HEAPS = 2


def share_heaps() -> None:
    """Let all threads of this process have two heaps. glibc gives each thread one of its own, up to eight for
    each core, and each keeps what its busiest moment took. Elsewhere nothing is to be done. Threads that have
    one keep it, so this comes first."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_ARENA_MAX, _HEAPS)
