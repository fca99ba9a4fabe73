"""Memory of this process: malloc arenas, mapped pages of files, resident set size."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_M_ARENA_MAX = -8  # `malloc.h`
_MAX_ARENAS = 2
_MADV_DONTNEED = 4  # `mman.h`


def limit_malloc_arenas() -> None:
    """Limit glibc to two malloc arenas for all threads of this process. Does nothing on other systems.

    glibc gives each thread an arena of its own, up to eight for each core, and an arena keeps the memory of
    its largest moment. Threads that have an arena keep it, so call this before starting any.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_ARENA_MAX, _MAX_ARENAS)


def release_mapped_pages(*paths: Path) -> None:
    """Remove the mapped pages of the files ``paths`` from this process's memory. Linux only.

    Pages that are read again come back from the system's page cache.
    """
    maps = Path("/proc/self/maps")
    madvise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if madvise is None or not maps.exists():
        return
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    names = {str(path.resolve()) for path in paths}
    for line in maps.read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        # written pages belong to the process alone, and would be lost
        if len(fields) == 6 and fields[5] in names and "w" not in fields[1]:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            madvise(start, end - start, _MADV_DONTNEED)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, mapped files included; 0 if it is unknown."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
