"""Whose fault it is that an item goes out late: told apart by time that is the tests' own."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from benchmarks.load.pacing import TICK_S, Clock, Pace, watch


class Hand(Clock):
    """A clock that is moved by hand, and by waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def until(self, at: float) -> None:
        self.time = max(self.time, at)


async def send(pace: Pace, clock: Hand, seconds: float, *, waits: bool) -> None:
    """Send an item, which takes so long: waiting for the server, or busy."""
    handle = pace.sending()
    if waits:
        await asyncio.sleep(0)
    clock.time += seconds
    pace.sent(handle)


async def test_an_item_that_goes_out_when_it_is_due_has_no_lag() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    assert (clock.now(), lags) == (1.0, [0.0])


async def test_time_in_which_the_server_does_not_read_is_not_the_generators() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    await send(pace, clock, 3.0, waits=True)
    await pace.until(2.0)
    assert lags == [0.0, 0.0]
    assert pace.held(2.0)
    assert not pace.held(4.5)


async def test_what_it_takes_longer_after_the_server_has_read_is() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    await send(pace, clock, 3.0, waits=True)
    clock.time += 0.5
    await pace.until(2.0)
    assert lags == [0.0, 0.5]


async def test_a_send_that_is_slow_by_itself_makes_the_next_one_late() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    await send(pace, clock, 3.0, waits=False)
    await pace.until(2.0)
    assert lags == [0.0, 2.0]
    assert not pace.held(2.0)


async def test_a_pause_of_the_loop_counts_for_every_tick_that_it_swallows() -> None:
    class Paused(Hand):
        async def until(self, at: float) -> None:
            await super().until(at)
            if at == pytest.approx(10 * TICK_S):
                self.time += 5 * TICK_S
            elif at > 20.5 * TICK_S:
                raise asyncio.CancelledError

    lags: list[float] = []
    with suppress(asyncio.CancelledError):
        await watch(Paused(), lags)
    assert [round(lag / TICK_S) for lag in lags] == [0] * 9 + [5, 4, 3, 2, 1] + [0] * 6
