"""Watches how late the event loop is: whatever holds it up holds up every stream at once. It mends nothing."""

from __future__ import annotations

import asyncio
import time

from inference.scheduling.quantiles import RECENT, Distribution, Recent

PERIOD_S = 0.02
"""Seconds between looks. A stall is seen shorter than it was by at most this. With fifty looks a second an idle
server takes 0.75 % of a core in all; under load they were not to be seen in what a frame costs."""


class LoopLag:
    """How late the loop calls what is due. It belongs to the loop it is started on."""

    def __init__(self) -> None:
        self._recent = Recent(RECENT)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin to look."""
        self._due = time.monotonic() + PERIOD_S
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer:
            self._timer.cancel()

    def recent(self) -> Distribution:
        """How late it was lately, in seconds."""
        return self._recent.at(time.monotonic())

    def _look(self) -> None:
        now = time.monotonic()
        self._recent.add(now - self._due, now)
        self.start()
