"""When the items of an open loop are due, and by how much the generator itself is late.

An open loop does not wait for answers: an item is due at its time, independent of the server, and its clock runs
from then. So a stall delays everything that is due meanwhile, which a closed loop would not have sent (coordinated
omission; Gil Tene: "How NOT to Measure Latency"). Schedules are made before the run.
"""

from __future__ import annotations

import asyncio
import random
from typing import Literal, TypeAlias

Arrivals: TypeAlias = Literal["steady", "poisson"]
"""How the items of a stream follow each other: `steady` as from a camera, `poisson` as from independent people."""

TICK_S = 0.01
"""Interval at which the event loop's lateness is sampled: half of the `LAG_MS` that a run allows."""


def schedule(arrivals: Arrivals, rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Make one stream's schedule.

    Args:
        rate: items per second, on average.
        chance: the stream's own seeded generator, so that a run can be repeated.

    Returns:
        Seconds from the start of the run to each item, ascending, all below `seconds`.
    """
    if arrivals == "steady":
        phase = chance.uniform(0, 1 / rate)  # cameras are not in step with each other
        # multiplied, not added up, so that rounding errors do not accumulate
        due = [phase + number / rate for number in range(int(seconds * rate) + 1)]
        return [at for at in due if at < seconds]
    due = []
    at = chance.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += chance.expovariate(rate)
    return due


def chance_of(seed: int, stream: int) -> random.Random:
    """Give a stream's random numbers, the same in whichever process it runs."""
    return random.Random(f"{seed}/{stream}")  # noqa: S311  # a schedule needs no secrecy


class Clock:
    """Seconds since the start of the run."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = 0.0

    def start(self) -> None:
        """Start at 0."""
        self._begun = self._loop.time()

    def now(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._begun

    async def until(self, at: float) -> None:
        """Sleep until then; return at once if it has passed."""
        if (early := at - self.now()) > 0:
            await asyncio.sleep(early)


class Pace:
    """Waits for a stream's items to be due, and records how late they are through the generator's own fault.

    If the server does not read, a send blocks and the items due meanwhile go out late. That is the server's doing:
    their clock runs on, but the generator's own lag counts only from the end of the blocked send.

    Args:
        lags: where the lag of each item goes, in seconds.
    """

    def __init__(self, clock: Clock, lags: list[float]) -> None:
        self._clock = clock
        self._lags = lags
        self._unblocked = 0.0
        self._loop = asyncio.get_running_loop()
        self._blocked = False

    async def until(self, due: float) -> None:
        """Wait until an item is due, and record its lag."""
        await self._clock.until(due)
        self._lags.append(self._clock.now() - max(due, self._unblocked))

    def delayed(self, due: float) -> bool:
        """Whether an item was delayed by a blocked send."""
        return self._unblocked > due

    def sending(self) -> asyncio.Handle:
        """Mark the start of a send; pass the handle to `sent`."""
        self._blocked = False
        # runs only if the send yields to the event loop, which it does only to wait for the server
        return self._loop.call_soon(self._mark)

    def sent(self, handle: asyncio.Handle) -> None:
        """Mark the end of a send."""
        handle.cancel()
        if self._blocked:
            self._unblocked = self._clock.now()

    def _mark(self) -> None:
        self._blocked = True


async def watch(clock: Clock, lags: list[float]) -> None:
    """Record in seconds how late the event loop is for each tick, until cancelled.

    Ticks have a schedule, too: one long pause counts for every tick in it.
    """
    due = 0.0
    while True:
        due += TICK_S
        await clock.until(due)
        lags.append(clock.now() - due)
