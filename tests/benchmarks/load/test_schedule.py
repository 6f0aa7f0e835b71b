"""Schedules are made beforehand and repeatable, and a late item is charged to whoever delayed it."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import suppress
from itertools import pairwise

import pytest

from benchmarks.load.schedule import TICK_S, Arrivals, Clock, Pace, chance_of, schedule, watch

KINDS: tuple[Arrivals, ...] = ("steady", "poisson")


def made(kind: Arrivals, rate: float, seconds: float, stream: int = 0, seed: int = 1) -> list[float]:
    return schedule(kind, rate, seconds, chance_of(seed, stream))


def gaps(due: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(due)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_ascends_within_its_time(kind: Arrivals) -> None:
    due = made(kind, 50, 4)
    assert due == sorted(due)
    assert due[0] >= 0
    assert due[-1] < 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_schedule_and_another_one_does_not(kind: Arrivals) -> None:
    assert made(kind, 15, 10) == made(kind, 15, 10)
    assert made(kind, 15, 10) != made(kind, 15, 10, seed=2)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_not_in_step(kind: Arrivals) -> None:
    firsts = {made(kind, 15, 10, stream)[0] for stream in range(24)}
    assert len(firsts) == 24


def test_a_camera_keeps_its_interval_to_the_end() -> None:
    due = made("steady", 15, 600)
    assert len(due) == 9000
    assert due[-1] - due[0] == pytest.approx(8999 / 15, abs=1e-9)
    assert gaps(due) == pytest.approx([1 / 15] * 8999, abs=1e-9)


@pytest.mark.parametrize("seconds", [0.01, 0.05])
def test_less_than_an_interval_has_one_frame_or_none(seconds: float) -> None:
    counts = {len(made("steady", 10, seconds, stream)) for stream in range(50)}
    assert counts == {0, 1}


def test_random_arrivals_have_exponential_intervals() -> None:
    due = made("poisson", 200, 100)
    between = gaps(due)
    assert len(due) / 100 == pytest.approx(200, rel=0.05)
    # an exponential distribution's deviation is its mean, and it exceeds that with probability 1 / e
    assert statistics.stdev(between) == pytest.approx(statistics.mean(between), rel=0.05)
    assert sum(gap > 1 / 200 for gap in between) / len(between) == pytest.approx(0.368, abs=0.02)


def test_many_random_streams_are_one_random_stream_of_their_sum() -> None:
    merged = sorted(at for stream in range(20) for at in made("poisson", 10, 100, stream))
    between = gaps(merged)
    assert len(merged) / 100 == pytest.approx(200, rel=0.05)
    assert statistics.stdev(between) == pytest.approx(statistics.mean(between), rel=0.05)


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
    assert pace.delayed(2.0)
    assert not pace.delayed(4.5)


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
    assert not pace.delayed(2.0)


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
