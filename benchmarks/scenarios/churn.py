"""Streams that come and go as fast as the server lets them: how soon it serves them, and what they leave behind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.failures import RunFailed
from benchmarks.load.raw_clients import Plan, Visitors
from benchmarks.load.server_memory import KIB, Held, address, roomy, settled
from benchmarks.load.servers import Program
from benchmarks.report.results import Figure, Grid, Plot, Say, Section, Series, none
from benchmarks.report.stats import PERCENTS, percentile

CLIENTS = 16
"""That come and go at the same time."""

CROWDS = 4
"""Of the same size: the memory that each of them leaves behind shows a leak, and that of one alone only when the
collector last ran."""

UNBOUNDED_S = 60.0
"""For how long a crowd of a given size may come and go."""

WARM_VISITS = 5000
"""After so many the server's memory has grown to what it needs, however long it runs."""

KEPT_KIB = 1000.0
"""What may stay of a thousand streams: a kilobyte of each. A forgotten session or task is more, a whole connection
twenty times as much; the allocator's own unrest is less."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """What one crowd that came and went showed.

    Attributes:
        visits: how many there were.
        waits_ms: from the wish to connect to `ready`, of each visit that got so far.
        failed: visits without a result, the server's count, and a close.
        cpu: CPU seconds of the server's tree.
        after: what the server held when all had gone.
    """

    seconds: float
    visits: int
    waits_ms: list[float]
    failed: int
    cpu: float
    after: Held


def measure(say: Say, seconds: float) -> Section:
    """Let clients come and go for a while, then as many again, and again, which must leave nothing behind."""
    with roomy(CLIENTS) as server:
        say("warming up")
        _churn(server, UNBOUNDED_S, WARM_VISITS)
        say(f"{CLIENTS} clients that come and go, for {seconds:.0f} s")
        crowds = [_churn(server, seconds)]
        visits = crowds[0].visits
        for number in range(1, CROWDS):
            say(f"{visits:,} visits again, {number} of {CROWDS - 1}")
            crowds.append(_churn(server, UNBOUNDED_S, visits))
    return Section(
        "connect: churn",
        f"{CLIENTS} clients that connect, send one item of one byte, read its answer and the server's "
        "count, close, and connect again. They are a process of their own that shares the machine's cores with "
        "the server.",
        _figures(crowds),
        (_grid(crowds),),
        (_plot(crowds),),
    )


def _churn(server: Program, seconds: float, visits: int | None = None) -> Crowd:
    used = server.cpu()
    with Visitors(Plan(address(server), CLIENTS, seconds, visits)) as clients:
        told = clients.heard()
    used = server.cpu() - used
    if not told["waits_ms"]:
        raise RunFailed(f"none of {told['visits']:,} visits got so far that the server was ready")
    return Crowd(
        told["seconds"], told["visits"], told["waits_ms"], told["failed"], used, settled(server.process)
    )


def _figures(crowds: Sequence[Crowd]) -> tuple[Figure, ...]:
    visits = crowds[0].visits
    first, last = crowds[0].after, crowds[-1].after
    return (
        none("churn: visits that failed", sum(crowd.failed for crowd in crowds), f"of {CROWDS * visits:,}"),
        Figure(
            "churn: memory kept of 1,000 connections (RSS)",
            tuple(
                (then.after.rss - before.after.rss) / KIB / visits * 1e3
                for before, then in itertools.pairwise(crowds)
            ),
            "KiB",
            "<=",
            KEPT_KIB,
            f"{visits:,} at a time; {last.rss / KIB / KIB:.0f} MiB in the end",
        ),
        none("churn: descriptors kept", last.descriptors - first.descriptors, f"{last.descriptors} are open"),
    )


def _grid(crowds: Sequence[Crowd]) -> Grid:
    rows: list[tuple[str | float, ...]] = []
    for number, crowd in enumerate(crowds, 1):
        waits = [percentile(crowd.waits_ms, percent) for percent in (50, 99)]
        rows.append((str(number), crowd.visits / crowd.seconds, *waits, crowd.cpu / crowd.visits * 1e3))
    return Grid(
        f"{CLIENTS} clients that come and go",
        ("crowd", "connections/s", "ready p50 (ms)", "ready p99 (ms)", "server's CPU per connection (ms)"),
        tuple(rows),
    )


def _plot(crowds: Sequence[Crowd]) -> Plot:
    lines = [
        Series(f"crowd {number}", tuple((p, percentile(crowd.waits_ms, p)) for p in PERCENTS))
        for number, crowd in enumerate(crowds, 1)
    ]
    return Plot("Time to ready", "of the connections (%)", "connect to ready (ms)", tuple(lines))
