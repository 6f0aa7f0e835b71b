"""Texts that arrive at random: latency against load, up to nearly the server's capacity.

Closed loops find the capacity: the median of several rounds, from as many processes as the greatest load needs, so
that the generator is not the bottleneck. Then texts arrive as a Poisson process at shares of that rate, without
waiting for answers; the clock of each runs from when it was due.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.failures import RunFailed
from benchmarks.load.run import Run, unaccounted
from benchmarks.report.results import Grid, Plot, Say, Section, Series, grid, none
from benchmarks.scenarios.catalogue import DEFAULT, Options
from benchmarks.scenarios.target import Target, generators, target

STREAMS = 64
SHARES = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Of the capacity. Beyond, the queue only grows, and latency depends on the length of the run."""

SECONDS, QUICK_SECONDS = 5.0, 1.5
"""Of a step, which has thousands of texts."""

WARM_UP_S = 1.0
ROUNDS, QUICK_ROUNDS = 3, 1


@dataclass(frozen=True, slots=True)
class Step:
    """One load."""

    share: float  # of the capacity
    offered: float  # texts per second
    run: Run


def measure(say: Say, quick: bool, options: Options = DEFAULT) -> list[Section]:
    """Measure the capacity, then the latency at each share of it."""
    streams = options.streams or STREAMS
    seconds = options.seconds or (QUICK_SECONDS if quick else SECONDS)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with target(say, options, "spam") as server:
        say("warming up")
        processes = generators(streams, server.closed(streams, WARM_UP_S).rate)
        rates = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: {streams} streams that wait for each answer")
            rates.append(server.closed(streams, seconds, processes=processes).rate)
        capacity = statistics.median(rates)
        if not capacity:
            raise RunFailed("the server gives no results")
        steps = [_step(say, server, (streams, seconds), share, capacity) for share in SHARES]
    return [_section(server, steps, capacity, (streams, seconds))]


def _step(say: Say, server: Target, shape: tuple[int, float], share: float, capacity: float) -> Step:
    streams, seconds = shape
    offered = share * capacity
    say(f"{offered:,.0f} items a second, {share:.0%} of what it can do, for {seconds:g} s")
    run = server.scheduled(streams, offered / streams, seconds, arrivals="poisson")
    if not run.results:
        raise RunFailed(f"nothing was answered; there were {run.errors} errors")
    return Step(share, offered, run)


def _section(server: Target, steps: list[Step], capacity: float, shape: tuple[int, float]) -> Section:
    streams, seconds = shape
    return Section(
        "text",
        f"Items of {server.model} arrived on {streams} streams as a Poisson process, at rising shares of the "
        f"{capacity:,.0f} per second that it answers when every stream waits for each answer, for {seconds:g} s "
        "each. Latency is the time from when an item was due to its answer, by the client's clock, up to a "
        f"millisecond of which is the timer of the generator. {server.sharing}",
        (
            none("texts at random: errors", sum(step.run.errors for step in steps)),
            unaccounted("texts at random: items unaccounted for", (step.run for step in steps)),
        ),
        (_grid(server, steps),),
        (_plot(steps),),
        next((f"at {step.share:.0%} of its rate: {step.run.void}" for step in steps if step.run.void), ""),
    )


def _grid(server: Target, steps: list[Step]) -> Grid:
    columns: dict[str, Callable[[Step], str | float]] = {
        "of the rate, %": lambda step: step.share * 100,
        "offered/s": lambda step: step.offered,
        "answered/s": lambda step: step.run.rate,
        "p50, ms": lambda step: step.run.latency.percentile(50),
        "p99, ms": lambda step: step.run.latency.percentile(99),
        "max, ms": lambda step: step.run.latency.percentile(100),
        "lag p99, ms": lambda step: step.run.lag.percentile(99),
    }
    if server.program:
        columns["CPU per item, ms"] = lambda step: server.cpu_ms(step.run)
    return grid("latency against load", steps, columns)


def _plot(steps: list[Step]) -> Plot:
    return Plot(
        "Latency against load",
        "items per second",
        "latency, ms",
        tuple(
            Series(name, tuple((step.offered, step.run.latency.percentile(percent)) for step in steps))
            for name, percent in (("stream-server, p99", 99), ("median", 50))
        ),
        log=True,
    )
