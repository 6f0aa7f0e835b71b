"""Texts from people who know nothing of each other: latency against load, up to nearly all that the server can do.

First closed loops tell how many texts per second the server answers at most: the median of several rounds, from as
many processes as the greatest load after them, so that it is not the generator that is measured. Then texts arrive
as a Poisson process at shares of that rate, whatever is answered; the clock of each runs from when it was due.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.failures import RunFailed
from benchmarks.load.run import Run
from benchmarks.report.results import Grid, Plot, Say, Section, Series, none
from benchmarks.scenarios.options import DEFAULT, Options
from benchmarks.scenarios.target import Target, generators, target

STREAMS = 64
SHARES = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Of the capacity. Above, a queue of random arrivals only grows, and its latency tells how long the run was."""

SECONDS, QUICK_SECONDS = 5.0, 1.5
"""Of a step: thousands of texts, of which the 99th percentile needs one."""

WARM_UP_S = 1.0
ROUNDS, QUICK_ROUNDS = 3, 1


@dataclass(frozen=True, slots=True)
class Step:
    """One load.

    Attributes:
        share: of the capacity.
        offered: texts per second.
    """

    share: float
    offered: float
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
            none(
                "texts at random: items unaccounted for",
                sum(step.run.unaccounted for step in steps),
                f"of {sum(step.run.sent for step in steps):,}",
            ),
        ),
        (_grid(server, steps),),
        (_plot(steps),),
        next((f"at {step.share:.0%} of its rate: {step.run.void}" for step in steps if step.run.void), ""),
    )


def _grid(server: Target, steps: list[Step]) -> Grid:
    headings = ["of the rate, %", "offered/s", "answered/s", "p50, ms", "p99, ms", "max, ms", "lag p99, ms"]
    rows: list[list[str | float]] = [
        [
            step.share * 100,
            step.offered,
            step.run.rate,
            *step.run.latency.percentiles(50, 99, 100),
            *step.run.lag.percentiles(99),
        ]
        for step in steps
    ]
    if server.program:
        headings.append("CPU per item, ms")
        for row, step in zip(rows, steps, strict=True):
            row.append(server.cpu_ms(step.run))
    return Grid("latency against load", tuple(headings), tuple(map(tuple, rows)))


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
