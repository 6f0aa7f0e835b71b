"""What connections to the null model cost: thousands of idle ones, and clients that come and go.

``python -m benchmarks.scenarios.connect`` measures with other numbers than `bench connect`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from benchmarks.failures import check_installed

    check_installed()

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.failures import RunFailed
from benchmarks.load.generator import Load
from benchmarks.load.histograms import total
from benchmarks.load.payloads import FRAME_BYTES
from benchmarks.load.raw_clients import GOING_AWAY, NORMAL, Plan, RawClients, Report
from benchmarks.load.run import Run, drive, first_void, unaccounted
from benchmarks.load.servers import SPARE, Program, Usage, raise_descriptors, serving, settled
from benchmarks.report.results import Figure, Grid, Plot, Say, Section, Series, at_most, none
from benchmarks.report.stats import PERCENTS, percentile
from benchmarks.report.terminal import run

IDLE, QUICK_IDLE = 10_000, 1_000
ROUNDS, QUICK_ROUNDS = 3, 1
HEARTBEATS, QUICK_HEARTBEATS = 3, 0
"""A client that the server forgot to ping would be cut off after two and a half periods."""

HEARTBEAT_S = 20.0
"""The server's default: the silence after which it pings."""

LIVE_RATE = 50.0
LIVE_SECONDS, QUICK_LIVE_SECONDS = 6.0, 2.0

CHURN_SECONDS, QUICK_CHURN_SECONDS = 4.0, 1.5
CLIENTS = 16
"""That come and go simultaneously."""

CROWDS = 4
"""Of the same size. The memory that each leaves behind shows a leak; that of a single one only shows when the
collector last ran."""

UNBOUNDED_S = 60.0
"""Time limit of a crowd of a given number of visits."""

KIB = 1024.0
WARM_VISITS = 5000
"""Visits after which the server's memory no longer grows."""

KEPT_KIB = 1000.0
"""What may remain of a thousand streams: a kilobyte each. A leaked session or task is more, a connection twenty
times as much; the allocator's own variation is less."""


def measure(say: Say, quick: bool) -> list[Section]:
    """Hold idle connections beside one in use; then open and close as many as the server can."""
    if quick:
        idle = measure_idle(say, QUICK_IDLE, QUICK_ROUNDS, QUICK_HEARTBEATS, QUICK_LIVE_SECONDS)
        return [*idle, measure_churn(say, QUICK_CHURN_SECONDS)]
    return [*measure_idle(say, IDLE, ROUNDS, HEARTBEATS), measure_churn(say, CHURN_SECONDS)]


@dataclass(slots=True)
class Idle:
    """What many idle connections showed; lists are by round."""

    count: int  # how many there were
    before: Usage  # of the server, without any
    opened: list[float] = field(default_factory=list)  # connections per second
    alone: list[Run] = field(default_factory=list)  # the live stream without them
    beside: list[Run] = field(default_factory=list)  # and with them
    full: list[Usage] = field(default_factory=list)  # of the server, with all of them
    core: float | None = None  # share of a core used for heartbeats alone; None if not measured
    # open connections, and lost ones by close code, just before the server was stopped
    last: Report = field(default_factory=Report)
    unclosed: int = 0  # connections of all rounds that ended without the expected close code

    def kib(self, memory: str) -> list[float]:
        """Growth of the server's `rss` or `uss` per connection, of each round."""
        before = getattr(self.before, memory)
        return [(getattr(usage, memory) - before) / self.count / KIB for usage in self.full]


def measure_idle(
    say: Say, wanted: int, rounds: int, heartbeats: int, live_seconds: float = LIVE_SECONDS
) -> list[Section]:
    """Measure a live stream without and with idle connections in turn; the last of them see the server stop.

    Args:
        heartbeats: periods in which nothing else happens; 0 to leave that out.
        live_seconds: of the live stream in each round.
    """
    count = raise_descriptors(wanted)
    seen = _idle_rounds(say, count, rounds, heartbeats, live_seconds)
    fewer = f" This machine's limit of open files does not allow {wanted:,}." if count < wanted else ""
    idle = Section(
        "connect: idle",
        f"{count:,} streams to the null model that send nothing.{fewer} The clients are a process of their own "
        "on the server's cores. Memory that the kernel holds for sockets is in no figure.",
        _idle_figures(seen),
    )
    live = Section(
        "connect: live beside idle",
        f"One stream that sends {LIVE_RATE:.0f} items of {FRAME_BYTES:,} bytes a second to the null model, alone "
        f"and beside the {count:,} idle ones, in turn.",
        _live_figures(seen),
        (_live_grid(seen),),
        (_live_plot(seen),),
        first_void((*seen.alone, *seen.beside)),
    )
    return [idle, live]


def _address(server: Program) -> str:
    return f"{server.url}/v2/models/echo/stream?policy=queue"


def _live(server: Program, seconds: float) -> Run:
    return drive(server, [Load(server.url, "echo", "frame", 1, seconds, "queue", rate=LIVE_RATE)])


def _idle_rounds(say: Say, count: int, rounds: int, heartbeats: int, live_seconds: float) -> Idle:
    with ExitStack() as stack:
        # the last clients outlive the server
        with serving("echo", max_streams=count + SPARE) as server:
            say("warming up")
            _live(server, live_seconds)
            seen = Idle(count, settled(server.process))
            for number in range(1, rounds + 1):
                say(f"round {number} of {rounds}: one live stream, alone")
                seen.alone.append(_live(server, live_seconds))
                say(f"round {number} of {rounds}: {count:,} clients connect")
                clients = stack.enter_context(RawClients(Plan(_address(server), count)))
                seen.opened.append(count / clients.report().seconds)
                seen.full.append(settled(server.process))
                say(f"round {number} of {rounds}: one live stream beside them")
                seen.beside.append(_live(server, live_seconds))
                if number < rounds:
                    clients.tell("leave")
                    seen.unclosed += count - clients.report().codes.get(NORMAL, 0)
            if heartbeats:
                say(f"nothing but heartbeats, for {heartbeats * HEARTBEAT_S:.0f} s")
                seen.core = _core(server, heartbeats * HEARTBEAT_S)
            clients.tell("count")
            seen.last = clients.report()
            say("the server is told to stop")
        seen.unclosed += count - clients.report().codes.get(GOING_AWAY, 0)
    return seen


def _core(server: Program, seconds: float) -> float:
    """Measure the share of a core that the server's tree uses while nothing is sent."""
    used, begun = server.cpu(), time.perf_counter()
    time.sleep(seconds)  # the load itself: nothing
    return (server.cpu() - used) / (time.perf_counter() - begun)


def _idle_figures(seen: Idle) -> tuple[Figure, ...]:
    lost = [f"{count:,} closed with {code}" for code, count in seen.last.codes.items()]
    figures = [
        at_most(
            "idle: server's memory per connection (RSS)",
            seen.kib("rss"),
            32.0,
            "KiB",
            f"{statistics.median(seen.kib('uss')):.1f} KiB of its own (USS); "
            f"{statistics.median(seen.opened):,.0f} connections a second were opened",
        ),
        none("idle: connections lost", seen.count - seen.last.open, "; ".join((f"of {seen.count:,}", *lost))),
        none("idle: closed without a close code", seen.unclosed, "the last of them as the server stopped"),
    ]
    if seen.core is not None:
        figures.append(at_most("idle: CPU for the heartbeats", seen.core * 100, 10.0, "% of a core"))
    return tuple(figures)


def _live_figures(seen: Idle) -> tuple[Figure, ...]:
    alone, beside = ([run.latency.percentile(99) for run in runs] for runs in (seen.alone, seen.beside))
    return (
        at_most(
            "idle: a live stream's p99 beside them, to alone",
            (crowded / free for free, crowded in zip(alone, beside, strict=True)),
            1.5,
            "x",
            f"{statistics.median(beside):.2f} ms to {statistics.median(alone):.2f} ms, from scheduled to answered",
        ),
        unaccounted("idle: the live stream's items unaccounted for", (*seen.alone, *seen.beside)),
    )


def _live_grid(seen: Idle) -> Grid:
    every = {0: seen.alone, seen.count: seen.beside}
    return Grid(
        "A live stream, from scheduled to answered",
        ("idle connections", "p50 (ms)", "p99 (ms)", "max (ms)"),
        tuple(
            (count, *total(run.latency for run in runs).percentiles(50, 99, 100))
            for count, runs in every.items()
        ),
    )


def _live_plot(seen: Idle) -> Plot:
    lines = []
    for name, runs in (("alone", seen.alone), (f"beside {seen.count:,} idle connections", seen.beside)):
        times = total(run.latency for run in runs)
        lines.append(Series(name, tuple((percent, times.percentile(percent)) for percent in PERCENTS)))
    return Plot(
        "A live stream's latency", "of its items (%)", "from scheduled to answered (ms)", tuple(lines)
    )


@dataclass(frozen=True, slots=True)
class Crowd:
    """Visits of clients that came and went."""

    report: Report
    cpu: float  # CPU seconds of the server's tree
    after: Usage  # of the server


def measure_churn(say: Say, seconds: float) -> Section:
    """Let clients come and go for a while, then repeat as many visits: they must leave nothing behind."""
    with serving("echo", max_streams=CLIENTS + SPARE) as server:
        say("warming up")
        _churn(server, UNBOUNDED_S, WARM_VISITS)
        say(f"{CLIENTS} clients that come and go, for {seconds:.0f} s")
        crowds = [_churn(server, seconds)]
        visits = crowds[0].report.visits
        for number in range(1, CROWDS):
            say(f"{visits:,} visits again, {number} of {CROWDS - 1}")
            crowds.append(_churn(server, UNBOUNDED_S, visits))
    return Section(
        "connect: churn",
        f"{CLIENTS} clients that connect, send one item of one byte, read its answer and the server's "
        "count, close, and connect again. They are a process of their own on the server's cores.",
        _churn_figures(crowds),
        (_churn_grid(crowds),),
        (_churn_plot(crowds),),
    )


def _churn(server: Program, seconds: float, visits: int | None = None) -> Crowd:
    used = server.cpu()
    with RawClients(Plan(_address(server), CLIENTS, seconds, visits)) as clients:
        report = clients.report()
    used = server.cpu() - used
    if not report.waits_ms:
        raise RunFailed(f"in none of {report.visits:,} visits was the server ready")
    return Crowd(report, used, settled(server.process))


def _churn_figures(crowds: Sequence[Crowd]) -> tuple[Figure, ...]:
    visits = crowds[0].report.visits
    first, last = crowds[0].after, crowds[-1].after
    return (
        none("churn: visits that failed", sum(c.report.failed for c in crowds), f"of {CROWDS * visits:,}"),
        at_most(
            "churn: memory kept of 1,000 connections (RSS)",
            (
                (later.after.rss - earlier.after.rss) / KIB / visits * 1e3
                for earlier, later in itertools.pairwise(crowds)
            ),
            KEPT_KIB,
            "KiB",
            f"{visits:,} at a time; {last.rss / KIB / KIB:.0f} MiB in the end",
        ),
        none("churn: descriptors kept", last.descriptors - first.descriptors, f"{last.descriptors} are open"),
    )


def _churn_grid(crowds: Sequence[Crowd]) -> Grid:
    return Grid(
        f"{CLIENTS} clients that come and go",
        ("crowd", "connections/s", "ready p50 (ms)", "ready p99 (ms)", "server's CPU per connection (ms)"),
        tuple(
            (
                str(number),
                crowd.report.visits / crowd.report.seconds,
                percentile(crowd.report.waits_ms, 50),
                percentile(crowd.report.waits_ms, 99),
                crowd.cpu / crowd.report.visits * 1e3,
            )
            for number, crowd in enumerate(crowds, 1)
        ),
    )


def _churn_plot(crowds: Sequence[Crowd]) -> Plot:
    lines = [
        Series(f"crowd {number}", tuple((p, percentile(crowd.report.waits_ms, p)) for p in PERCENTS))
        for number, crowd in enumerate(crowds, 1)
    ]
    return Plot("Time to ready", "of the connections (%)", "connect to ready (ms)", tuple(lines))


def main() -> int:
    """Measure with the numbers of the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios.connect", description=__doc__)
    add = parser.add_argument
    add("--idle", type=int, default=IDLE, metavar="N", help="idle connections (default %(default)s)")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help="of the live stream (default %(default)s)")
    add("--churn-seconds", type=float, default=CHURN_SECONDS, metavar="S", help="default %(default)s")
    args = parser.parse_args()

    def suite(say: Say, _: bool) -> list[Section]:
        idle = measure_idle(say, args.idle, args.rounds, HEARTBEATS)
        return [*idle, measure_churn(say, args.churn_seconds)]

    return run({"connect": suite})


if __name__ == "__main__":
    sys.exit(main())
