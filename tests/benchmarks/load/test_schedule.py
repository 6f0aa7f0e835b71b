"""Schedules are fixed and repeatable, and lag is charged to the generator or to the server."""

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
def test_schedule_is_sorted_and_in_range(kind: Arrivals) -> None:
    due = made(kind, 50, 4)
    assert due == sorted(due)
    assert due[0] >= 0
    assert due[-1] < 4


@pytest.mark.parametrize("kind", KINDS)
def test_seed_determines_schedule(kind: Arrivals) -> None:
    assert made(kind, 15, 10) == made(kind, 15, 10)
    assert made(kind, 15, 10) != made(kind, 15, 10, seed=2)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_have_different_phases(kind: Arrivals) -> None:
    firsts = {made(kind, 15, 10, stream)[0] for stream in range(24)}
    assert len(firsts) == 24


def test_camera_interval_does_not_drift() -> None:
    due = made("steady", 15, 600)
    assert len(due) == 9000
    assert due[-1] - due[0] == pytest.approx(8999 / 15, abs=1e-9)
    assert gaps(due) == pytest.approx([1 / 15] * 8999, abs=1e-9)


@pytest.mark.parametrize("seconds", [0.01, 0.05])
def test_less_than_an_interval_has_at_most_one_frame(seconds: float) -> None:
    counts = {len(made("steady", 10, seconds, stream)) for stream in range(50)}
    assert counts == {0, 1}


def test_random_arrivals_have_exponential_intervals() -> None:
    due = made("poisson", 200, 100)
    between = gaps(due)
    assert len(due) / 100 == pytest.approx(200, rel=0.05)
    # an exponential distribution's deviation is its mean, and it exceeds that with probability 1 / e
    assert statistics.stdev(between) == pytest.approx(statistics.mean(between), rel=0.05)
    assert sum(gap > 1 / 200 for gap in between) / len(between) == pytest.approx(0.368, abs=0.02)


def test_sum_of_poisson_streams_is_poisson() -> None:
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


async def test_punctual_item_has_no_lag() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    assert (clock.now(), lags) == (1.0, [0.0])


async def test_blocked_send_is_not_generator_lag() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    await send(pace, clock, 3.0, waits=True)
    await pace.until(2.0)
    assert lags == [0.0, 0.0]
    assert pace.delayed(2.0)
    assert not pace.delayed(4.5)


async def test_delay_after_blocked_send_is_generator_lag() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    await send(pace, clock, 3.0, waits=True)
    clock.time += 0.5
    await pace.until(2.0)
    assert lags == [0.0, 0.5]


async def test_slow_send_is_generator_lag() -> None:
    clock, lags = Hand(), list[float]()
    pace = Pace(clock, lags)
    await pace.until(1.0)
    await send(pace, clock, 3.0, waits=False)
    await pace.until(2.0)
    assert lags == [0.0, 2.0]
    assert not pace.delayed(2.0)


async def test_loop_pause_counts_for_every_tick() -> None:
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
