"""How many CPUs this process may use: its affinity, and the quotas of its control groups (cgroup v1 and v2).

A container with a quota of two CPUs sees all cores of its machine. With a thread on each of them it would use
up its quota at the start of every period, and stand still for the rest.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from .control_groups import ROOT, groups_of, lines_of


def usable_cpus(root: Path = ROOT) -> int:
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


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the CPUs that control groups grant this process, the least of all groups that it is nested in;
    None without a quota, as on systems without control groups. ``root``: as for ``usable_cpus``."""
    quotas = [quota for folder in groups_of("cpu", root) if (quota := _quota_of(folder))]
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    """Return the quota of one group in CPUs: microseconds of CPU time per microseconds of a period."""
    limit = lines_of(folder / "cpu.max")  # v2: "QUOTA PERIOD", "max" for none
    words = limit[0].split() if limit else []
    if not words:  # v1: -1 for none
        words = [*lines_of(folder / "cpu.cfs_quota_us"), *lines_of(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None
