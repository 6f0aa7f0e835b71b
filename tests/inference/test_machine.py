"""Cores and memory of containers, from made-up files of the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference import machine
from inference.machine import cores, cpu_quota, memory_bytes

V2 = "0::/app/worker\n"
V1 = "9:name=systemd:/\n4:memory:/app\n2:cpu,cpuacct:/app\n0::/\n"


@pytest.fixture(autouse=True)
def sixty_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota", "count"),
    [
        ({}, None, 64),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/app/worker/cpu.max": "max 100000\n"}, None, 64),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/app/worker/cpu.max": "200000 100000\n"}, 2.0, 2),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/app/worker/cpu.max": "250000 100000\n"}, 2.5, 3),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/app/worker/cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/app/worker/cpu.max": "9900000 100000\n"}, 99.0, 64),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/app/worker/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/app/cpu.max": "400000 100000\n",
            },
            4.0,
            4,
        ),
        # a container sees the host's path, and its own cgroup as the root of the mount
        ({"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0, 2),
        ({"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0, 2),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
            },
            3.0,
            3,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n",
            },
            None,
            64,
        ),
    ],
)
def test_the_quota_of_a_cgroup_counts(
    files: dict[str, str], quota: float | None, count: int, tmp_path: Path
) -> None:
    root = write(tmp_path, files)
    assert cpu_quota(root) == quota
    assert cores(root) == count


def test_the_affinity_counts_where_it_is_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {3}, raising=False)
    root = write(tmp_path, {"proc/self/cgroup": V2, "sys/fs/cgroup/app/worker/cpu.max": "200000 100000\n"})
    assert cores(root) == 1


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal:       1000 kB\nMemFree:        1 kB\n"}, 1_024_000),
        (
            {
                "proc/meminfo": "MemTotal:       1000 kB\n",
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/app/worker/memory.max": "max\n",
                "sys/fs/cgroup/app/memory.max": "5000\n",
            },
            5000,
        ),
        (
            {
                "proc/meminfo": "MemTotal:       1000 kB\n",
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/app/memory.limit_in_bytes": "9223372036854771712\n",
            },
            1_024_000,
        ),
    ],
)
def test_the_memory_limit_of_a_cgroup_counts(
    files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    assert memory_bytes(write(tmp_path, files)) == limit


def test_this_machine_has_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert cores() >= 1
    assert memory_bytes() is None or memory_bytes() > 1 << 20  # type: ignore[operator]
