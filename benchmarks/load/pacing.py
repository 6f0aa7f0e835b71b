"""The clock of a run, and a stream's schedule by it, with what the generator's process itself comes too late by."""

from __future__ import annotations

import asyncio

TICK_S = 0.01
"""How often the event loop is watched: twice in the `LAG_MS` that it may be late, so that no pause is missed."""


class Clock:
    """Seconds since the start of the run."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = 0.0

    def start(self) -> None:
        """Begin at 0."""
        self._begun = self._loop.time()

    def now(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._begun

    async def until(self, at: float) -> None:
        """Sleep, unless it is too late already."""
        if (early := at - self.now()) > 0:
            await asyncio.sleep(early)


class Pace:
    """Keeps one stream's schedule, and books by how much its items go out late through the process's own fault.

    Where the server does not read, a send waits, and items that come due meanwhile go out late. That is the
    server's doing: their clock runs on, but as the process's own lag counts only what passes after the wait.

    Args:
        lags: where the lag of each item goes, in seconds.
    """

    def __init__(self, clock: Clock, lags: list[float]) -> None:
        self._clock = clock
        self._lags = lags
        self._freed = 0.0
        self._loop = asyncio.get_running_loop()
        self._waited = False

    async def until(self, due: float) -> None:
        """Wait until an item is due, and book by how much it is later than it could be."""
        await self._clock.until(due)
        self._lags.append(self._clock.now() - max(due, self._freed))

    def held(self, due: float) -> bool:
        """Whether an item was kept back by a send that waited for the server."""
        return self._freed > due

    def sending(self) -> asyncio.Handle:
        """Tell that a send begins; its handle is for `sent`."""
        self._waited = False
        # runs only if the send lets the event loop go on, which it does only to wait for the server
        return self._loop.call_soon(self._mark)

    def sent(self, handle: asyncio.Handle) -> None:
        """Tell that the send is over."""
        handle.cancel()
        if self._waited:
            self._freed = self._clock.now()

    def _mark(self) -> None:
        self._waited = True


async def watch(clock: Clock, lags: list[float]) -> None:
    """Book by how much the event loop is late for ticks of its own, in seconds, until this is cancelled.

    The ticks are on a schedule, too: one long pause counts for every tick that it swallowed.
    """
    due = 0.0
    while True:
        due += TICK_S
        await clock.until(due)
        lags.append(clock.now() - due)
