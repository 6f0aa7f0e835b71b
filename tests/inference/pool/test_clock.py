"""The pool's timers: exact while the loop runs, and still while it stands still."""

from __future__ import annotations

import pytest

from inference.pool.clock import SLICES, STALL, AwakeTimer
from tests.inference.pool.memory_workers import MemoryClock

DELAY = 5.0


class World:
    """A loop that can be stopped, and a timer on it."""

    def __init__(self, delay: float = DELAY) -> None:
        self.clock = MemoryClock()
        self.started = self.clock.now()
        self.called: list[float] = []
        self.timer = AwakeTimer(self.clock, self.clock.now, delay, self.call)  # type: ignore[arg-type]

    def call(self) -> None:
        self.called.append(self.clock.now() - self.started)

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which nothing is called."""
        self.clock.time += seconds

    def run(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.mark.parametrize("delay", [0.001, 0.1, 0.3, DELAY, 600.0])
def test_it_comes_in_time_while_the_loop_runs(delay: float) -> None:
    world = World(delay)
    world.run(delay * 0.999)
    assert world.called == []
    world.run(delay * 0.001 + 1e-6)
    assert world.called == [pytest.approx(delay)]
    assert world.clock.pending() == []


@pytest.mark.parametrize("before", [0.0, 0.15, 2.4, 4.8, 4.99])
@pytest.mark.parametrize("still", [0.6, 7.0, 3600.0])
def test_the_time_in_which_everything_stood_still_does_not_count(before: float, still: float) -> None:
    world = World()
    world.run(before)
    world.stand_still(still)
    world.run(DELAY - before - 0.001)
    assert world.called == [], "the worker has not had its time yet"
    world.run(DELAY / SLICES + 0.002)
    assert len(world.called) == 1


def test_several_stops_count_no_more_than_one() -> None:
    world = World()
    for _ in range(4):
        world.run(1.0)
        world.stand_still(60.0)
    world.run(0.9)
    assert world.called == []
    world.run(0.1 + 4 * DELAY / SLICES + 0.001)
    assert len(world.called) == 1


def test_a_little_lateness_is_no_stop() -> None:
    world = World()
    while not world.called:
        world.run(0.001)
        world.stand_still(0.9 * STALL)
    assert world.called[0] <= DELAY + STALL + 0.001


def test_a_loop_that_is_always_late_ends_it_all_the_same() -> None:
    world = World()
    while not world.called:
        world.run(0.001)
        world.stand_still(2.0)
    assert world.called[0] <= 2 * SLICES * 2.1


@pytest.mark.parametrize("after", [0.0, 1.0, 4.9])
def test_one_that_is_cancelled_does_not_come(after: float) -> None:
    world = World()
    world.run(after)
    world.timer.cancel()
    world.run(2 * DELAY)
    assert world.called == []
    assert world.clock.pending() == []
