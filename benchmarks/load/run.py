"""Runs loads against a server, joins what generators and process tree report, and decides whether it counts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]

from benchmarks.load.accounts import Account
from benchmarks.load.generator import Generator, Load, Outcome
from benchmarks.load.histograms import Latencies, Moment, timeline, total
from benchmarks.load.servers import Program, cpu
from benchmarks.report.environment import machine_cpu
from benchmarks.report.results import Figure, Say, none

LAG_MS = 20.0
"""By how much 99 % of a generator's items, and of its event loop's ticks, may be late. A tenth of the age at which
an answer to a camera is stale, and a third of a camera's interval at 15 frames a second: beyond, the load is not
the one asked for, and much of the latency is the generator's own."""

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Resolution of a process's CPU time in seconds."""


@dataclass(frozen=True, slots=True)
class Run:
    """The outcome of one run."""

    accounts: list[list[Account]]  # of each load's streams
    seconds: float  # from the first item to the last answer
    cpu: float  # CPU seconds of the server's tree in that time; 0 if the server was not started here
    foreign: float  # cores that other programs used meanwhile
    latency: Latencies = field(default_factory=Latencies)  # of every item of all loads (`Account.waits`)
    lag: Latencies = field(default_factory=Latencies)  # of items of open loops, by the generators' own fault
    timeline: tuple[Moment, ...] = ()  # the results' latency over the run
    void: str = ""  # why the run does not count; empty if it does
    load_cpu: float = 0.0  # CPU seconds of the generators
    measured_s: float = math.inf  # `Load.measured_s`, the least of several loads'

    @property
    def streams(self) -> list[Account]:
        """Every stream of every load."""
        return [account for accounts in self.accounts for account in accounts]

    @property
    def answers(self) -> list[tuple[float, float, float]]:
        """Every stream's `Account.answers`."""
        return [answer for account in self.streams for answer in account.answers]

    @property
    def waits(self) -> list[tuple[float, float]]:
        """The waits that `latency` has (`Account.waits`)."""
        return [wait for account in self.streams for wait in account.waits(self.seconds, self.measured_s)]

    @property
    def results(self) -> int:
        """Results in total."""
        return sum(account.results for account in self.streams)

    @property
    def rate(self) -> float:
        """Results per second."""
        return self.results / self.seconds

    @property
    def per_cpu(self) -> float:
        """Results per CPU second of the server's tree, of at least one tick."""
        return self.results / max(self.cpu, TICK)

    @property
    def sent(self) -> int:
        """Items sent."""
        return sum(account.sent for account in self.streams)

    @property
    def unsent(self) -> int:
        """Items that were due and not sent, because the server did not read."""
        return sum(account.unsent for account in self.streams)

    @property
    def dropped(self) -> int:
        """Items that the server dropped."""
        return sum(account.dropped for account in self.streams)

    @property
    def errors(self) -> int:
        """Items that got an error."""
        return sum(sum(account.errors.values()) for account in self.streams)

    @property
    def unaccounted(self) -> int:
        """Items on which clients and server disagree."""
        return sum(account.unaccounted for account in self.streams)


def drive(program: Program | None, loads: Sequence[Load]) -> Run:
    """Run loads against a server simultaneously, each from its own processes.

    Websockets are opened before the measurement; connections for posts when they are needed.

    Args:
        program: the server, for its CPU time; None if it was not started here.

    Raises:
        Refused: the server refused a stream.
        RunFailed: the server or a generator did not answer or did not end.
    """
    with ExitStack() as stack:
        generators = [[stack.enter_context(Generator(share)) for share in load.shares()] for load in loads]
        every = [generator for shares in generators for generator in shares]
        for generator in every:
            generator.connect()
        senders = [psutil.Process(generator.pid) for generator in every]

        def used() -> tuple[float, float, float]:
            return program.cpu() if program else 0.0, sum(map(cpu, senders)), machine_cpu()

        before, begun = used(), time.perf_counter()
        for generator in every:
            generator.go()
        for generator in every:
            generator.finish()
        seconds = time.perf_counter() - begun
        tree, own, everything = (now - then for now, then in zip(used(), before, strict=True))
        outcomes = [[generator.outcome() for generator in shares] for shares in generators]
    parts = [outcome for shares in outcomes for outcome in shares]
    return Run(
        [[account for outcome in shares for account in outcome.accounts] for shares in outcomes],
        seconds,
        tree,
        max(0.0, everything - tree - own) / seconds,
        total(outcome.latency for outcome in parts),
        total(outcome.lag for outcome in parts),
        timeline(outcome.slots for outcome in parts),
        next(filter(None, map(lateness, parts)), ""),
        own,
        min(load.measured_s for load in loads),
    )


def drive_again_if_void(program: Program | None, load: Load, say: Say) -> Run:
    """Drive a load; once more if the run is void, since the disturbance may be over. Raises as `drive`."""
    run = drive(program, [load])
    if not run.void:
        return run
    say(f"void, so once more: {run.void}")
    return drive(program, [load])


def lateness(outcome: Outcome) -> str:
    """Say why a generator's load was not the one asked for; "" if it kept its schedule.

    A closed loop has only the schedule of its event loop's ticks. If they are late, so are its items, and the
    capacity it finds is its own. Unless other programs take the cores, 99 % are late by less than half of `LAG_MS`,
    even while the server uses all cores.
    """
    for lags, what in ((outcome.lag, "items went out"), (outcome.loop, "its event loop ran")):
        if lags.count and (late_ms := lags.percentile(99)) > LAG_MS:
            return (
                f"the generator did not keep its schedule: {what} up to {late_ms:.0f} ms late "
                f"(p99; {LAG_MS:.0f} ms are allowed)"
            )
    return ""


def unaccounted(name: str, runs: Iterable[Run]) -> Figure:
    """Make the figure of items on which clients and server disagree."""
    several = list(runs)
    return none(name, sum(run.unaccounted for run in several), f"of {sum(run.sent for run in several):,}")


def first_void(runs: Iterable[Run]) -> str:
    """Give the reason of the first void run; "" if all count."""
    return next((run.void for run in runs if run.void), "")
