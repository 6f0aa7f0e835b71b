"""What a result depends on besides the code: the machine, the versions, and who else used the cores meanwhile.

It names no host, no user and no path: results are for everybody to read.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.programs import machine_cpu

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


def processor() -> str:
    """Name the processor, as its maker does where Linux says it."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str | float]:
    """Give the versions of the packages that matter and are there."""
    found: dict[str, str | float] = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds of the whole machine, and of this process and those that have been waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return machine_cpu(), sum(usage.ru_utime + usage.ru_stime for usage in used)


class Observation:
    """The time of a run, from when this is made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = _cpu_seconds()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._begun

    def facts(self) -> dict[str, str | float]:
        """Give the machine, the versions, the date (UTC), and how the run went."""
        seconds = self.seconds
        everything, own = (after - before for after, before in zip(_cpu_seconds(), self._before, strict=True))
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count() or 1,
            "processor": processor(),
            "architecture": platform.machine(),
            "GB of memory": round(psutil.virtual_memory().total / 1e9, 1),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            **versions(),
            "seconds": round(seconds, 1),
            # other programs' work falsifies what is measured in time, and says so here
            "cores used by others": round(max(0.0, everything - own) / max(seconds, 1e-3), 2),
        }
