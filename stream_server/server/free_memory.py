"""Gives memory that was freed back to the system: glibc's malloc keeps what lies below anything still in use."""

from __future__ import annotations

import asyncio
import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 10.0
"""Seconds between two looks: each reads one small file of the kernel's."""

EXCESS_BYTES = 32 << 20
"""What may stay: less is not worth the time, some 0.1 ms for each MiB, in which the loop stands still."""


class FreeMemory:
    """Calls ``malloc_trim`` when the process has grown by more than its streams hold. Elsewhere it does nothing.

    Args:
        held: bytes that are known to be in use.
    """

    def __init__(self, held: Callable[[], int]) -> None:
        self._held = held
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look after it, from now on."""
        trim, resident = find_trim(), resident_bytes()
        if trim is not None and resident is not None:
            self._task = asyncio.create_task(self._run(trim, resident - self._held()))

    def stop(self) -> None:
        """Do nothing more."""
        if self._task:
            self._task.cancel()

    async def _run(self, trim: Callable[[int], int], least: int) -> None:
        """Trim; `least` is what was resident after that, beyond what was held."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if (resident_bytes() or 0) - self._held() > least + EXCESS_BYTES:
                trim(0)
                least = (resident_bytes() or 0) - self._held()


def resident_bytes() -> int | None:
    """The process's resident memory; None where the system does not say so as Linux does."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def find_trim() -> Callable[[int], int] | None:
    """The C library's ``malloc_trim``; None where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
