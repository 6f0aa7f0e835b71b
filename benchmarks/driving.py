"""Drives loads against a server, puts together what both sides say of the run, and says whether it counts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]

from benchmarks.generator import Generator, Load, Outcome
from benchmarks.latencies import Latencies, Moment, timeline, total
from benchmarks.ledger import Account
from benchmarks.programs import Program, cpu, machine_cpu

LAG_MS = 20.0
"""The most that 1 % of a generator's items, or of its event loop's ticks, may be late. It is a tenth of the age at
which an answer to a camera is stale, and a third of a camera's interval at 15 frames a second: beyond, the load is
another one than was asked for, and a good part of the latencies is the generator's own."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of loads showed.

    Attributes:
        accounts: of each load's streams.
        seconds: from the first item to the last answer.
        cpu: CPU seconds of the server's tree in that time; 0 for a server that others have started.
        foreign: cores that programs other than the server and the loads used meanwhile.
        latency: of the results of all loads, since they were due; what has no answer counts with what it waited.
        lag: by how much items of open loops went out late by the generators' own fault.
        timeline: the results' latency over the run.
        void: why the run says nothing about the server; empty where it counts.
    """

    accounts: list[list[Account]]
    seconds: float
    cpu: float
    foreign: float
    latency: Latencies = field(default_factory=Latencies)
    lag: Latencies = field(default_factory=Latencies)
    timeline: tuple[Moment, ...] = ()
    void: str = ""

    @property
    def streams(self) -> list[Account]:
        """Every stream of every load."""
        return [account for accounts in self.accounts for account in accounts]

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
        """Results per CPU second of the server's tree."""
        return self.results / self.cpu

    @property
    def sent(self) -> int:
        """Items that got out."""
        return sum(account.sent for account in self.streams)

    @property
    def unsent(self) -> int:
        """Items that were due and did not get out, because the server did not read."""
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
        """Items that the two sides' books do not explain."""
        return sum(account.unaccounted for account in self.streams)


def drive(program: Program | None, loads: Sequence[Load]) -> Run:
    """Run loads against a server at once, each from processes of its own; handshakes are not measured.

    Args:
        program: the server, for its CPU time; None where it is not ours to look into.

    Raises:
        RunFailed: the server refused a stream, or did not come to an end.
    """
    with ExitStack() as stack:
        generators = [[stack.enter_context(Generator(share)) for share in load.shares()] for load in loads]
        every = [generator for shares in generators for generator in shares]
        for generator in every:
            generator.connect()
        senders = [psutil.Process(generator.pid) for generator in every]

        def used() -> tuple[float, float]:
            tree = program.cpu() if program else 0.0
            return tree, machine_cpu() - tree - sum(map(cpu, senders))

        before, begun = used(), time.perf_counter()
        for generator in every:
            generator.go()
        for generator in every:
            generator.finish()
        seconds = time.perf_counter() - begun
        tree, others = (now - then for now, then in zip(used(), before, strict=True))
        outcomes = [[generator.outcome() for generator in shares] for shares in generators]
        return _run(loads, outcomes, (seconds, tree, max(0.0, others) / seconds))


def _run(
    loads: Sequence[Load], outcomes: Sequence[Sequence[Outcome]], measured: tuple[float, float, float]
) -> Run:
    every = [outcome for shares in outcomes for outcome in shares]
    open_loops = [
        outcome for load, shares in zip(loads, outcomes, strict=True) if load.rate for outcome in shares
    ]
    return Run(
        [[account for outcome in shares for account in outcome.accounts] for shares in outcomes],
        *measured,
        total(outcome.latency for outcome in every),
        total(outcome.lag for outcome in every),
        timeline(outcome.slots for outcome in every),
        next(filter(None, map(lateness, open_loops)), ""),
    )


def lateness(outcome: Outcome) -> str:
    """Say why a generator's open loop was none; nothing if it kept its schedule."""
    for lags, what in ((outcome.lag, "items went out"), (outcome.loop, "its event loop ran")):
        if lags.count and (late_ms := lags.percentile(99)) > LAG_MS:
            return (
                f"the generator did not keep its schedule: {what} up to {late_ms:.0f} ms late "
                f"(p99; {LAG_MS:.0f} ms are allowed)"
            )
    return ""
