"""CPU quotas count: of cgroup v1 and v2, of the process's own group and of those around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_edge.native import cpu_count
from pass_edge.native.cpu_count import cpu_quota, usable_cpus
from tests.support.control_groups import tree

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = (
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


@pytest.fixture(autouse=True)
def machine_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_count, "_affinity", lambda: 8)


@pytest.mark.parametrize(
    ("limit", "quota", "cpus"),
    [
        ("200000 100000", 2.0, 2),
        ("150000 100000", 1.5, 2),
        ("50000 100000", 0.5, 1),
        ("300000 50000", 6.0, 6),
        ("1600000 100000", 16.0, 8),
        ("max 100000", None, 8),
        ("max", None, 8),
        ("", None, 8),
        ("nonsense", None, 8),
        ("0 0", None, 8),
    ],
)
def test_a_quota_of_v2(limit: str, quota: float | None, cpus: int, tmp_path: Path) -> None:
    root = tree(tmp_path, V2, "0::/app.slice\n", **{"app.slice/cpu.max": limit + "\n"})
    assert cpu_quota(root) == quota
    assert usable_cpus(root) == cpus


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        (("max 100000", "300000 100000", "max 100000"), 3.0),
        (("400000 100000", "300000 100000", "200000 100000"), 2.0),
        (("100000 100000", "300000 100000", "200000 100000"), 1.0),
    ],
)
def test_the_least_quota_of_nested_groups_counts(
    limits: tuple[str, str, str], quota: float, tmp_path: Path
) -> None:
    outer, middle, inner = limits
    files = {"a/cpu.max": outer, "a/b/cpu.max": middle, "a/b/c/cpu.max": inner}
    assert cpu_quota(tree(tmp_path, V2, "0::/a/b/c\n", **files)) == quota


@pytest.mark.parametrize("group", ["/", "/docker/4f1", "/../../host"])
def test_a_container_sees_its_own_group_at_the_top(group: str, tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, V2, f"0::{group}\n", **{"cpu.max": "250000 100000"})) == 2.5


def test_a_mount_of_a_part_of_the_tree(tmp_path: Path) -> None:
    mounts = V2.replace(" / /sys", " /docker/4f1 /sys")
    files = {"sub/cpu.max": "max 100000", "cpu.max": "200000 100000", "docker/4f1/cpu.max": "1 100000"}
    assert cpu_quota(tree(tmp_path, mounts, "0::/docker/4f1/sub\n", **files)) == 2.0


@pytest.mark.parametrize(("quota", "period", "expected"), [(300000, 100000, 3.0), (-1, 100000, None)])
def test_a_quota_of_v1(quota: int, period: int, expected: float | None, tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/docker/cpu.cfs_quota_us": f"{quota}\n",
        "cpu,cpuacct/docker/cpu.cfs_period_us": f"{period}\n",
        "cpuset/docker/cpu.cfs_quota_us": "1\n",
    }
    groups = "5:cpuset:/docker\n4:cpu,cpuacct:/docker\n0::/unused\n"
    assert cpu_quota(tree(tmp_path, V1, groups, **files)) == expected


def test_a_hybrid_of_both(tmp_path: Path) -> None:
    mounts = V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
        "unified/a/cpu.max": "300000 100000",
    }
    assert cpu_quota(tree(tmp_path, mounts, "4:cpu,cpuacct:/a\n0::/a\n", **files)) == 3.0


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert usable_cpus(tmp_path) == 8


@pytest.mark.parametrize("text", ["\n", "::\n", "no colons\n", "\udcff::/\n", "0::\n"])
def test_lines_that_make_no_sense(text: str, tmp_path: Path) -> None:
    root = tree(tmp_path, V2, "")
    (root / "proc/self/cgroup").write_text(text, errors="surrogateescape")
    (root / "proc/self/mountinfo").write_text(text + V2[:20], errors="surrogateescape")
    assert cpu_quota(root) is None
