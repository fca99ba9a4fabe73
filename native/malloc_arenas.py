"""What this process keeps in memory: heaps of the C library, pages of mapped files."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_M_ARENA_MAX = -8  # `malloc.h`
_HEAPS = 2
_MADV_DONTNEED = 4  # `mman.h`


def share_malloc_arenas() -> None:
    """Let all threads of this process have two heaps. glibc gives each thread one of its own, up to eight for
    each core, and each keeps what its busiest moment took. Elsewhere nothing is to be done. Threads that have
    one keep it, so this comes first."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_ARENA_MAX, _HEAPS)


def let_go_of_pages(path: Path) -> None:
    """Take what is mapped of the file ``path`` out of this process's memory; what is read again comes back
    from the system's cache. Elsewhere than on Linux nothing happens."""
    maps = Path("/proc/self/maps")
    madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if madvise is None or not maps.exists():
        return
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    name = str(path.resolve())
    for line in maps.read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        # written pages are the process's own, and would be lost
        if len(fields) == 6 and fields[5] == name and "w" not in fields[1]:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            madvise(start, end - start, _MADV_DONTNEED)
