"""Text from many clients: what the `spam` model's answers cost beside one `predict_proba` a text, and how soon."""

from __future__ import annotations

import statistics

from benchmarks.load.generator import Load
from benchmarks.load.payloads import TEXTS
from benchmarks.load.run import Run, drive, first_void
from benchmarks.load.servers import Program, serving
from benchmarks.peers.catalogue import AIOHTTP
from benchmarks.peers.launcher import serving_peer
from benchmarks.report.results import Figure, Say, Section, at_least, at_most, none
from benchmarks.report.stats import percentile

STREAMS = 64
ROUNDS = 3
SECONDS = 3.0
HALF_SECONDS = 4.0


def measure(say: Say) -> Section:
    """Measure both servers in turn, then ours with half the load that it answered."""
    with serving("spam") as server, serving_peer(AIOHTTP, "spam") as baseline:

        def closed(program: Program, seconds: float) -> Load:
            return Load(program.url, "spam", "texts", STREAMS, seconds, transport=program.transport)

        say("warming up")
        for program in (server, baseline):
            drive(program, [closed(program, 1.0)])
        ours: list[Run] = []
        theirs: list[Run] = []
        halves: list[Run] = []
        for number in range(ROUNDS):
            say(f"round {number + 1} of {ROUNDS}: {STREAMS} streams that wait for each answer")
            ours.append(drive(server, [closed(server, SECONDS)]))
            theirs.append(drive(baseline, [closed(baseline, SECONDS)]))
            say(f"round {number + 1} of {ROUNDS}: half of that rate, on a schedule")
            rate = ours[-1].rate / 2 / STREAMS
            halves.append(
                drive(server, [Load(server.url, "spam", "texts", STREAMS, HALF_SECONDS, rate=rate)])
            )
    return section(ours, theirs, halves)


def section(ours: list[Run], theirs: list[Run], halves: list[Run]) -> Section:
    """Make the section of all rounds: of closed loops on both servers, and of half the rate on a schedule."""
    return Section(
        "text",
        f"{STREAMS} clients send texts to the model spam: first each waits for its answer, beside aiohttp with a "
        "pool of processes and one `predict_proba` a text; then half as many texts as were answered go out on a "
        "schedule.",
        tuple(_figures(ours, theirs, halves)),
        void=first_void(halves),
    )


def _figures(ours: list[Run], theirs: list[Run], halves: list[Run]) -> list[Figure]:
    size = statistics.median(map(len, TEXTS))
    per_cpu = [statistics.median(run.per_cpu for run in runs) for runs in (ours, theirs)]
    rate = statistics.median(run.rate for run in ours)
    waits = [[late for account in half.streams for _, _, late in account.answers] for half in halves]
    ages = [[age for account in half.streams for _, age, _ in account.answers] for half in halves]
    streams = [account for run in (*ours, *halves) for account in run.streams]
    return [
        at_least(
            "text: answers per CPU second, to the baseline's",
            (a.per_cpu / b.per_cpu for a, b in zip(ours, theirs, strict=True)),
            10.0,
            "x",
            f"{per_cpu[0]:,.0f} to {per_cpu[1]:,.0f}; {rate:,.0f}/s; texts of {size:.0f} characters",
        ),
        at_most(
            "text: p99 at half that rate, from scheduled to answered",
            (percentile(wait, 99) for wait in waits),
            25.0,
            "ms",
            f"by the server's age_ms {statistics.median(percentile(age, 99) for age in ages):.1f} ms",
        ),
        none(
            "text: items unaccounted for",
            sum(account.unaccounted for account in streams),
            f"of {sum(account.sent for account in streams):,}",
        ),
    ]
