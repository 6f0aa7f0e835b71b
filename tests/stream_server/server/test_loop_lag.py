"""The event loop's lag: a stall is seen, and nothing is left behind."""

from __future__ import annotations

import asyncio
import time

from stream_server.server.loop_lag import PERIOD_S, LoopLag
from tests.inference.pool.test_pool import pending_timers


async def looks(lag: LoopLag, how_many: int) -> None:
    async with asyncio.timeout(20):
        while lag.recent().count < how_many:
            await asyncio.sleep(PERIOD_S)


async def test_what_holds_the_loop_up_is_seen() -> None:
    lag = LoopLag()
    lag.start()
    await looks(lag, 1)
    seen = lag.recent().count
    time.sleep(0.3)  # as a defect would
    await looks(lag, seen + 1)
    assert lag.recent().largest >= 0.3 - PERIOD_S
    lag.stop()


async def test_it_looks_until_it_is_stopped() -> None:
    timers = pending_timers()
    lag = LoopLag()
    lag.stop()
    lag.start()
    await looks(lag, 3)
    lag.stop()
    seen = lag.recent().count
    assert pending_timers() <= timers
    await asyncio.sleep(3 * PERIOD_S)
    assert lag.recent().count == seen
