"""What results depend on: code, machine, versions, other programs' CPU use. Names no host, user or path."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.failures import CHECKOUT
from benchmarks.report.results import Facts
from inference.machine import cores, cpu_quota

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
"""Packages that affect figures; those not installed are left out."""

GIT_S = 10.0
"""Time limit of a git command, which takes milliseconds."""


def machine_cpu() -> float:
    """CPU seconds of the whole machine since it started, without idle time."""
    times = psutil.cpu_times()
    # guests' time is already part of `user`
    return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))


def processor() -> str:
    """Name the processor, by its maker's name on Linux."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def versions() -> Facts:
    """Give the versions of `PACKAGES` that are installed."""
    found: Facts = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(folder: Path) -> Facts:
    """Give a checkout's commit, and whether tracked files have changed since; empty outside a checkout."""
    if not (folder / ".git").exists():
        return {}
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changes = _git(folder, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "working tree": "changed" if changes else "clean"}


def _git(folder: Path, *args: str) -> str:
    command = ["git", "-C", str(folder), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S, check=True)
    return done.stdout.strip()


def _quota() -> Facts:
    quota = cpu_quota()
    return {} if quota is None else {"cores by quota": round(quota, 2)}


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds of the machine, and of this process with the children it has waited for.

    A worker whose server was killed is not waited for here, so its time counts as other programs'.
    """
    return machine_cpu(), sum(psutil.Process().cpu_times()[:4])


class Observation:
    """Observes the machine from the start of a run on."""

    def __init__(self) -> None:
        # before the run adds to both: results change the checkout, and load the machine
        self._first: Facts = {**commit(CHECKOUT), "load average at the start": round(os.getloadavg()[0], 2)}
        self._begun = time.monotonic()
        self._before = _cpu_seconds()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._begun

    def facts(self) -> Facts:
        """Give the machine, the versions, the date (UTC), and other programs' CPU use since the start."""
        seconds = self.seconds
        everything, own = (after - before for after, before in zip(_cpu_seconds(), self._before, strict=True))
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": cores(),
            **_quota(),
            "processor": processor(),
            "architecture": platform.machine(),
            "GB of memory": round(psutil.virtual_memory().total / 1e9, 1),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            **versions(),
            **self._first,
            "seconds": round(seconds, 1),
            # other programs' work distorts wall times
            "cores used by others": round(max(0.0, everything - own) / max(seconds, 1e-3), 2),
        }
