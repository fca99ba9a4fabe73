"""How much RAM this process may still take: what the system has, and the limits of its control groups."""

from __future__ import annotations

import os
from pathlib import Path

from .control_groups import ROOT, groups_of, lines_of


def available_memory(root: Path = ROOT) -> int:
    """Return the bytes of RAM that can be used without swapping, as the system and the control groups of this
    process (cgroup v1 and v2) have them. ``root``: the folder in which `proc` and `sys` are."""
    rooms = [room for folder in groups_of("memory", root) if (room := _room_of(folder)) is not None]
    return max(0, min([_available_in_system(root), *rooms]))


def _available_in_system(root: Path) -> int:
    for line in lines_of(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _room_of(folder: Path) -> int | None:
    """Return the bytes that one group may still take; None without a limit. Pages of files that it has not
    used for long count as free, because the kernel drops them first."""
    limit = _number(folder, "memory.max", "memory.limit_in_bytes")
    used = _number(folder, "memory.current", "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    counts = dict(line.split(maxsplit=1) for line in lines_of(folder / "memory.stat") if " " in line)
    droppable = int(counts.get("total_inactive_file") or counts.get("inactive_file") or 0)
    return limit - used + droppable


def _number(folder: Path, v2_name: str, v1_name: str) -> int | None:
    lines = lines_of(folder / v2_name) or lines_of(folder / v1_name)
    return int(lines[0]) if lines and lines[0].isdecimal() else None  # "max" for no limit
