"""How many cores and how much memory this process may use: the machine's, or less if a cgroup has a limit.

Sources: cgroups(7); the kernel's documentation of cgroup v2 (cpu.max, memory.max) and v1 (cpu.cfs_quota_us,
cpu.cfs_period_us, memory.limit_in_bytes).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("sys/fs/cgroup")
MEMBERSHIP = Path("proc/self/cgroup")


def cores(root: Path = Path("/")) -> int:
    """Count the cores that may be used: those of the CPU affinity, or fewer if a cgroup has a quota.

    A quota of a fraction counts as a whole core: with 2.5 cores, two workers would leave a fifth of them idle.
    """
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return affine if quota is None else max(1, min(affine, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Read how many cores the cgroups of this process may use, the least of all; None without a quota."""
    quotas = []
    for folder in _folders(root, "cpu"):
        match _read(folder / "cpu.max").split():
            case [quota, period] if quota.isdecimal() and period.isdecimal():
                quotas.append(int(quota) / max(1, int(period)))
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # -1 is no quota
            quotas.append(int(quota) / max(1, int(period)))
    return min(quotas, default=None)


def memory_bytes(root: Path = Path("/")) -> int | None:
    """Read the memory that this process may use, the machine's or a cgroup's limit; None if unknown."""
    lines = _read(root / "proc/meminfo").splitlines()
    limits = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:")]
    for folder in _folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read(folder / name)
            if limit.isdecimal():  # "max" is no limit; v1 has a huge number instead
                limits.append(int(limit))
    return min(limits, default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Give the folders of the cgroups that this process is in and of their ancestors, for one controller.

    In a container the path in /proc may be the host's, of which only the mounted part exists here.
    """
    for line in _read(root / MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts = [root / CGROUPS, root / CGROUPS / "unified"]
        elif controller in controllers.split(","):
            mounts = [root / CGROUPS / name for name in {controllers, controller}]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # a cgroup outside of this process's namespace
            group = PurePosixPath()
        for mount in mounts:
            for part in (group, *group.parents):
                yield mount / part


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace").strip()
    except OSError:
        return ""
