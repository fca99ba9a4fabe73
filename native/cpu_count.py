"""How many CPUs this process may use: its affinity, and the quotas of its control groups (cgroup v1 and v2).

A container with a quota of two CPUs sees all cores of its machine. With a thread on each of them it would use
up its quota at the start of every period, and stand still for the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """Return the number of CPUs that this process may use, at least 1. A quota of 1.5 CPUs counts as 2, so
    that all of it can be used. Hyper-threads count as CPUs: not every operating system tells them apart.

    ``root``: the folder in which `proc` and `sys` are.
    """
    cpus, quota = _affinity(), cpu_quota(root)
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the CPUs that control groups grant this process, the least of all groups that it is nested in;
    None without a quota, as on systems without control groups. ``root``: as for ``usable_cpus``."""
    quotas = [quota for folder in _groups(root) if (quota := _quota_of(folder))]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the CPU control groups of this process, each before the one around it."""
    paths = dict(_memberships(root))
    for controller, mounted, mount_point in _mounts(root):
        if controller not in paths:
            continue
        path = PurePosixPath(paths[controller])
        # of a group above the mounted one, as a container's may be, only the mounted one can be seen
        inside = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
        top = root / mount_point.lstrip("/")
        yield from (top / part for part in (inside, *inside.parents) if ".." not in part.parts)


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the kinds of CPU control groups that this process is in, "cgroup2" or "cgroup", and its paths."""
    for line in _lines(root / "proc/self/cgroup"):  # hierarchy:controllers:path
        hierarchy, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        if hierarchy == "0" and not controllers:
            yield "cgroup2", path
        elif "cpu" in controllers.split(","):
            yield "cgroup", path


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the mounts of CPU control groups: their kind, which group is mounted, and where."""
    for line in _lines(root / "proc/self/mountinfo"):  # proc_pid_mountinfo(5)
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            yield kind[0], fields[3], fields[4]


def _quota_of(folder: Path) -> float | None:
    """Return the quota of one group in CPUs: microseconds of CPU time per microseconds of a period."""
    limit = _lines(folder / "cpu.max")  # v2: "QUOTA PERIOD", "max" for none
    words = limit[0].split() if limit else []
    if not words:  # v1: -1 for none
        words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
