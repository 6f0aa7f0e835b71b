"""What a result depends on: the code, the machine, the versions, and who else used the cores meanwhile.

It names no host, no user and no path: results are for everybody to read.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

import psutil  # type: ignore[import-untyped]

from benchmarks.failures import CHECKOUT
from benchmarks.load.servers import machine_cpu

Facts: TypeAlias = dict[str, str | float]

PACKAGES = (
    "stream-inference-server",
    "aiohttp",
    "websockets",
    "uvloop",
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "mlcommons-loadgen",
)
"""What runs where the figures are made; those that are not installed are left out."""

GIT_S = 10.0
"""Longest wait for one answer of git, which takes milliseconds."""


def processor() -> str:
    """Name the processor, as its maker does where Linux says it."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def versions() -> Facts:
    """Give the versions of the packages that matter and are there."""
    found: Facts = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(folder: Path) -> Facts:
    """Say which commit a checkout is of, and whether its files are changed since; nothing of another folder.

    Files that are in no commit do not count: results are such.
    """
    if not (folder / ".git").exists():
        return {}
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changes = _git(folder, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "working tree": "changed" if changes else "clean"}


def _git(folder: Path, *args: str) -> str:
    """Ask git, which only reads."""
    command = ["git", "-C", str(folder), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S, check=True)
    return done.stdout.strip()


def cores() -> int:
    """Count the cores that this process, and so what it starts, may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(groups: str, root: Path) -> Facts:
    """Give how many cores' time a container's limit leaves, the least of all its groups'; nothing without a limit.

    Source: the kernel's "Control Group v2", `cpu.max`: microseconds of time in each period, or `max`.

    Args:
        groups: what ``/proc/self/cgroup`` says.
        root: where the hierarchy is mounted.
    """
    found = re.search(r"^0::/(.*)$", groups, re.MULTILINE)
    limits = []
    place = root / found.group(1) if found else root
    for folder in (place, *place.parents):
        with suppress(OSError):
            most, period = (folder / "cpu.max").read_text("ascii").split()
            if most != "max":
                limits.append(int(most) / int(period))
        if folder == root:
            break
    return {"cores by quota": round(min(limits), 2)} if limits else {}


def _limits() -> Facts:
    with suppress(OSError):
        return quota(Path("/proc/self/cgroup").read_text("utf-8"), Path("/sys/fs/cgroup"))
    return {}


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds of the whole machine, and of this process and those that have been waited for.

    A worker whose server was killed is not waited for here, and counts as others': that is the most they used.
    """
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return machine_cpu(), sum(usage.ru_utime + usage.ru_stime for usage in used)


class Observation:
    """The time of a run, from when this is made."""

    def __init__(self) -> None:
        # the results that a run leaves in a checkout, and its own load, are no facts of its beginning
        self._first: Facts = {**commit(CHECKOUT), "load average at the start": round(os.getloadavg()[0], 2)}
        self._begun = time.monotonic()
        self._before = _cpu_seconds()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._begun

    def facts(self) -> Facts:
        """Give the machine, the versions, the date (UTC), and how the run went."""
        seconds = self.seconds
        everything, own = (after - before for after, before in zip(_cpu_seconds(), self._before, strict=True))
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": cores(),
            **_limits(),
            "processor": processor(),
            "architecture": platform.machine(),
            "GB of memory": round(psutil.virtual_memory().total / 1e9, 1),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            **versions(),
            **self._first,
            "seconds": round(seconds, 1),
            # other programs' work falsifies what is measured in time, and says so here
            "cores used by others": round(max(0.0, everything - own) / max(seconds, 1e-3), 2),
        }
