"""The files by which a system tells of its control groups."""

from __future__ import annotations

from pathlib import Path


def tree(root: Path, mounts: str, groups: str, **files: str) -> Path:
    """Write a system's files below ``root``; ``files``: contents of those of control groups, by path."""
    contents = {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups}
    contents |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in contents.items():
        (path := root / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
