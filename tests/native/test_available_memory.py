"""The memory that is left: what the system has, and what the control groups (v1 and v2) leave of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge.native.available_memory import available_memory
from tests.support.control_groups import tree

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
MIB = 1 << 20


def system(root: Path, mounts: str, groups: str, **files: str) -> Path:
    tree(root, mounts, groups, **files)
    (root / "proc/meminfo").write_text("MemTotal: 8192 kB\nMemAvailable: 4096 kB\n")
    return root


@pytest.mark.parametrize(
    ("limit", "used", "droppable", "left"),
    [
        (f"{3 * MIB}", f"{1 * MIB}", 0, 2 * MIB),
        (f"{3 * MIB}", f"{2 * MIB}", MIB, 2 * MIB),
        (f"{9 * MIB}", f"{1 * MIB}", 0, 4 * MIB),  # the system has less
        (f"{1 * MIB}", f"{2 * MIB}", 0, 0),
        ("max", f"{1 * MIB}", 0, 4 * MIB),
        ("nonsense", "", 0, 4 * MIB),
    ],
)
def test_a_limit_of_either_version(limit: str, used: str, droppable: int, left: int, tmp_path: Path) -> None:
    stat = f"anon 5\ninactive_file {droppable}\nactive_file 7\n"
    files = {"a/memory.max": limit, "a/memory.current": used, "a/memory.stat": stat}
    assert available_memory(system(tmp_path / "v2", V2, "0::/a\n", **files)) == left
    files = {"limit_in_bytes": limit, "usage_in_bytes": used, "stat": f"total_{stat[7:]}"}
    named = {f"memory/a/memory.{name}": text for name, text in files.items()}
    assert available_memory(system(tmp_path / "v1", V1, "4:memory:/a\n", **named)) == left


def test_the_least_of_nested_groups_counts(tmp_path: Path) -> None:
    files = {"a/memory.max": f"{2 * MIB}", "a/memory.current": "0"}
    files |= {"a/b/memory.max": f"{3 * MIB}", "a/b/memory.current": "0"}
    assert available_memory(system(tmp_path, V2, "0::/a/b\n", **files)) == 2 * MIB


def test_without_groups_the_system_counts(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, "", "")) == 4 * MIB
    assert available_memory(tmp_path / "nowhere") > 0
