"""The pool's clock on an event loop, whose timers stand still while the process does. It decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inference.pool.launcher import Timer

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

STALL = 0.25
"""Seconds by which a timer must be late to tell that the loop, the process or the machine stood still."""

SLICES, SHORTEST = 20, 0.1
"""In how many parts a timer runs, and the seconds that one has at least: a stop delays it by up to one of them."""


class LoopClock:
    """Implements `Clock` with an event loop's timers.

    What a worker is given, to answer a batch, to load or to exit, is time in which this process ran as well. A
    container that is frozen and a machine that is suspended stop both, and an answer may have arrived unread: no
    worker is late for that. One that is stopped alone is.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """See `Clock`."""
        return time.monotonic()  # a loop's own may stand still within a pass, as uvloop's does

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """See `Clock`. The time in which the loop stood still does not count."""
        return AwakeTimer(self._loop, self.now, delay, lambda: callback(*args))


class AwakeTimer:
    """Calls back after so many seconds in which the loop ran.

    It runs in parts. One that ends late by `STALL` does not count, because the stop may have begun with it. Of two
    such parts in a row one counts: a loop that is late again and again must not keep a hang alive for ever.
    """

    __slots__ = ("_call", "_due", "_handle", "_left", "_loop", "_now", "_part", "_slice", "_stood")

    def __init__(
        self,
        loop: AbstractEventLoop,
        now: Callable[[], float],
        delay: float,
        call: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._now = now
        self._call = call
        self._left = delay
        self._slice = max(delay / SLICES, SHORTEST)
        self._stood = False
        self._start()

    def cancel(self) -> None:
        """See `Timer`."""
        self._handle.cancel()

    def _start(self) -> None:
        self._part = min(self._slice, self._left)
        self._due = self._now() + self._part
        self._handle = self._loop.call_later(self._part, self._end)

    def _end(self) -> None:
        late = self._now() - self._due
        self._stood = late > STALL and not self._stood
        if not self._stood:
            self._left -= self._part + min(late, STALL)
        if self._left > 0:
            self._start()
        else:
            self._call()
