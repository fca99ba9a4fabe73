"""The control groups that this process is in (cgroup v1 and v2), and the files of their limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def groups_of(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Yield the folders of this process's groups of ``controller`` ("cpu", "memory"), each before the one
    around it; none on systems without control groups. ``root``: the folder in which `proc` and `sys` are."""
    paths = dict(_memberships(controller, root))
    for kind, mounted, mount_point in _mounts(controller, root):
        if kind not in paths:
            continue
        path = PurePosixPath(paths[kind])
        # of a group above the mounted one, as a container's may be, only the mounted one can be seen
        inside = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
        top = root / mount_point.lstrip("/")
        yield from (top / part for part in (inside, *inside.parents) if ".." not in part.parts)


def _memberships(controller: str, root: Path) -> Iterator[tuple[str, str]]:
    """Yield the kinds of control groups that this process is in, "cgroup2" or "cgroup", and its paths."""
    for line in lines_of(root / "proc/self/cgroup"):  # hierarchy:controllers:path
        hierarchy, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        if hierarchy == "0" and not controllers:
            yield "cgroup2", path
        elif controller in controllers.split(","):
            yield "cgroup", path


def _mounts(controller: str, root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the mounts of control groups: their kind, which group is mounted, and where."""
    for line in lines_of(root / "proc/self/mountinfo"):  # proc_pid_mountinfo(5)
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")):
            yield kind[0], fields[3], fields[4]


def lines_of(file: Path) -> list[str]:
    """Return the lines of ``file``; none if it cannot be read."""
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
