"""Thousands of streams that send nothing: what they cost the server, and the one beside them that is in use."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.load.generator import Load
from benchmarks.load.histograms import total
from benchmarks.load.payloads import FRAME_BYTES
from benchmarks.load.raw_clients import GOING, NORMAL, Plan, Visitors
from benchmarks.load.run import Run, drive, first_void
from benchmarks.load.server_memory import KIB, Held, address, allowed, roomy, settled
from benchmarks.load.servers import Program
from benchmarks.report.results import Figure, Grid, Plot, Say, Section, Series, none
from benchmarks.report.stats import PERCENTS

HEARTBEAT_S = 20.0
"""The server's default: after so long a silence it pings."""

LIVE_RATE = 50.0


@dataclass(frozen=True, slots=True)
class Idling:
    """What many idle connections showed.

    Attributes:
        count: how many there were.
        opened: connections per second, of each round.
        alone, beside: the live stream's runs without them and with them, in turn.
        before: what the server held when there had been none.
        full: what it held with all of them, of each round.
        core: how much of one core the server used for the heartbeats alone; None where that was left out.
        open: how many were open when the server was told to stop.
        lost: how many had ended by then, by the close code.
        unclosed: how many, of all rounds, ended without the close code that they should have had.
    """

    count: int
    opened: list[float]
    alone: list[Run]
    beside: list[Run]
    before: Held
    full: list[Held]
    core: float | None
    open: int
    lost: dict[str, int]
    unclosed: int

    @property
    def rss_kib(self) -> tuple[float, ...]:
        """Growth per connection."""
        return tuple((held.rss - self.before.rss) / self.count / KIB for held in self.full)

    @property
    def uss_kib(self) -> tuple[float, ...]:
        """Growth per connection of what no worker shares."""
        return tuple((held.uss - self.before.uss) / self.count / KIB for held in self.full)


def measure(say: Say, wanted: int, rounds: int, heartbeats: int, live_seconds: float = 6.0) -> list[Section]:
    """Measure a live stream without and with idle connections in turn; the last of them see the server stop.

    Args:
        heartbeats: for how many of their periods nothing else happens; 0 leaves that out.
        live_seconds: of the live stream in each round.
    """
    count = allowed(wanted)
    seen = _rounds(say, count, rounds, heartbeats, live_seconds)
    fewer = f" Its limit of open files keeps this machine from {wanted:,}." if count < wanted else ""
    idle = Section(
        "connect: idle",
        f"{count:,} streams to the null model that send nothing.{fewer} The clients are a process of their own "
        "that shares the machine's cores with the server. What the kernel holds for a socket is in no figure.",
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


def _live(server: Program, seconds: float) -> Run:
    return drive(server, [Load(server.url, "echo", "frame", 1, seconds, "queue", rate=LIVE_RATE)])


def _rounds(say: Say, count: int, rounds: int, heartbeats: int, live_seconds: float) -> Idling:
    opened: list[float] = []
    alone: list[Run] = []
    beside: list[Run] = []
    full: list[Held] = []
    unclosed = 0
    with ExitStack() as stack:
        # the last clients stay until the server goes
        with roomy(count) as server:
            say("warming up")
            _live(server, live_seconds)
            before = settled(server.process)
            for number in range(1, rounds + 1):
                say(f"round {number} of {rounds}: one live stream, alone")
                alone.append(_live(server, live_seconds))
                say(f"round {number} of {rounds}: {count:,} clients connect")
                clients = stack.enter_context(Visitors(Plan(address(server), count)))
                opened.append(count / clients.heard()["seconds"])
                full.append(settled(server.process))
                say(f"round {number} of {rounds}: one live stream beside them")
                beside.append(_live(server, live_seconds))
                if number < rounds:
                    clients.tell("leave")
                    unclosed += _not_closed(clients, count, NORMAL)
            core = None
            if heartbeats:
                say(f"nothing but heartbeats, for {heartbeats * HEARTBEAT_S:.0f} s")
                core = _core(server, heartbeats * HEARTBEAT_S)
            clients.tell("count")
            still = clients.heard()
            say("the server is told to stop")
        unclosed += _not_closed(clients, count, GOING)
    return Idling(count, opened, alone, beside, before, full, core, still["open"], still["codes"], unclosed)


def _not_closed(clients: Visitors, count: int, code: int) -> int:
    """How many clients were not closed with a code, once all have gone."""
    return count - int(clients.heard()["codes"].get(str(code), 0))


def _core(server: Program, seconds: float) -> float:
    """How much of one core the server's tree uses while nothing is sent."""
    used, begun = server.cpu(), time.perf_counter()
    time.sleep(seconds)  # the load itself: nothing
    return (server.cpu() - used) / (time.perf_counter() - begun)


def _idle_figures(seen: Idling) -> tuple[Figure, ...]:
    lost = [f"{count:,} closed with {code}" for code, count in seen.lost.items()]
    figures = [
        Figure(
            "idle: server's memory per connection (RSS)",
            seen.rss_kib,
            "KiB",
            "<=",
            32.0,
            f"{statistics.median(seen.uss_kib):.1f} KiB of its own (USS); "
            f"{statistics.median(seen.opened):,.0f} connections a second were opened",
        ),
        none("idle: connections lost", seen.count - seen.open, "; ".join((f"of {seen.count:,}", *lost))),
        none("idle: closed without a goodbye", seen.unclosed, "the last of them as the server stopped"),
    ]
    if seen.core is not None:
        figures.append(Figure("idle: CPU for the heartbeats", (seen.core * 100,), "% of a core", "<=", 10.0))
    return tuple(figures)


def _live_figures(seen: Idling) -> tuple[Figure, ...]:
    alone, beside = ([run.latency.percentile(99) for run in runs] for runs in (seen.alone, seen.beside))
    live = [*seen.alone, *seen.beside]
    return (
        Figure(
            "idle: a live stream's p99 beside them, to alone",
            tuple(crowded / free for free, crowded in zip(alone, beside, strict=True)),
            "x",
            "<=",
            1.5,
            f"{statistics.median(beside):.2f} ms to {statistics.median(alone):.2f} ms, from scheduled to answered",
        ),
        none(
            "idle: the live stream's items unaccounted for",
            sum(run.unaccounted for run in live),
            f"of {sum(run.sent for run in live):,}",
        ),
    )


def _live_grid(seen: Idling) -> Grid:
    every = {
        0: total(run.latency for run in seen.alone),
        seen.count: total(run.latency for run in seen.beside),
    }
    return Grid(
        "A live stream, from scheduled to answered",
        ("idle connections", "p50 (ms)", "p99 (ms)", "max (ms)"),
        tuple((count, *times.percentiles(50, 99, 100)) for count, times in every.items()),
    )


def _live_plot(seen: Idling) -> Plot:
    def line(name: str, runs: list[Run]) -> Series:
        times = total(run.latency for run in runs)
        return Series(name, tuple((percent, times.percentile(percent)) for percent in PERCENTS))

    return Plot(
        "A live stream's latency",
        "of its items (%)",
        "from scheduled to answered (ms)",
        (line("alone", seen.alone), line(f"beside {seen.count:,} idle connections", seen.beside)),
    )
