"""Measures how late the event loop runs its timers: a delay there delays every stream. It only measures."""

from __future__ import annotations

import asyncio
import time

from inference.scheduling.quantiles import RECENT, Distribution, Recent

PERIOD_S = 0.02
"""Seconds between measurements: a stall is underestimated by at most this. At fifty a second an idle server takes
0.75 % of a core in all; under load the cost per frame did not change measurably."""


class LoopLag:
    """The delay of the loop's timers. It belongs to the loop that it is started on."""

    def __init__(self) -> None:
        self._recent = Recent(RECENT)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Start measuring."""
        self._due = time.monotonic() + PERIOD_S
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._measure)

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer:
            self._timer.cancel()

    def recent(self) -> Distribution:
        """The delays of the last 30 to 60 s, in seconds."""
        return self._recent.at(time.monotonic())

    def _measure(self) -> None:
        now = time.monotonic()
        self._recent.add(now - self._due, now)
        self.start()
