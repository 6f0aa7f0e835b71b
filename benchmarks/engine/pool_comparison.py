"""The server beside aiohttp with a process pool, in turn: texts to the model `spam`, frames to the null model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.load.generator import Load
from benchmarks.load.payloads import FRAME_BYTES, TEXTS
from benchmarks.load.run import Run, drive, first_void, unaccounted
from benchmarks.load.servers import Program, serving
from benchmarks.peers.catalogue import AIOHTTP
from benchmarks.peers.launcher import serving_peer
from benchmarks.report.results import Figure, Say, Section, at_least, at_most
from benchmarks.report.stats import percentile

ROUNDS = 3

TEXT_STREAMS = 64
TEXT_SECONDS = 3.0
HALF_SECONDS = 4.0

FRAME_STREAMS = 8
FRAME_SECONDS = 2.5
WINDOWS = 1, 4
"""Frames in flight of a stream. One is the most expensive case, since nothing can be sent ahead."""

Pair = tuple[Run, Run]
"""A closed loop on our server, and the same on the baseline."""


@contextmanager
def _both(
    say: Say, model: str, payload: str, streams: int
) -> Iterator[tuple[Program, Callable[[float, int], Pair]]]:
    """Start and warm up both servers; give ours, and a function of seconds and window that drives both."""
    with serving(model) as server, serving_peer(AIOHTTP, model) as baseline:

        def closed(program: Program, seconds: float, window: int) -> Run:
            transport = program.transport
            load = Load(program.url, model, payload, streams, seconds, window=window, transport=transport)
            return drive(program, [load])

        def pair(seconds: float, window: int) -> Pair:
            return closed(server, seconds, window), closed(baseline, seconds, window)

        say("warming up")
        pair(1.0, 1)
        yield server, pair


def measure_dispatch(say: Say) -> Section:
    """Measure the cost of moving a frame to a worker and its answer back."""
    rounds: dict[int, list[Pair]] = {window: [] for window in WINDOWS}
    with _both(say, "echo", "frame", FRAME_STREAMS) as (_, pair):
        for number in range(ROUNDS):
            for window in WINDOWS:
                say(f"round {number + 1} of {ROUNDS}: {FRAME_STREAMS} streams, {window} in flight")
                rounds[window].append(pair(FRAME_SECONDS, window))
    return Section(
        "dispatch",
        f"{FRAME_STREAMS} clients, each with one or with several frames of {FRAME_BYTES:,} bytes in flight, send "
        "the next to the null model when one is answered, beside aiohttp with a pool of processes.",
        tuple(figure for window in WINDOWS for figure in _dispatch_figures(window, rounds[window])),
        void=first_void(run for pairs in rounds.values() for pair in pairs for run in pair),
    )


def _dispatch_figures(window: int, rounds: list[Pair]) -> list[Figure]:
    name = f"dispatch, {window} in flight"
    ours, theirs = ([1e3 / run.per_cpu for run in runs] for runs in zip(*rounds, strict=True))
    rates = [statistics.median(run.rate for run in runs) for runs in zip(*rounds, strict=True)]
    return [
        at_most(
            f"{name}: CPU per frame, to the baseline's",
            (a / b for a, b in zip(ours, theirs, strict=True)),
            0.4,
            "x",
            f"the baseline's {statistics.median(theirs):.3f} ms; {rates[0]:,.0f} and {rates[1]:,.0f} frames/s",
        ),
        at_most(
            f"{name}: CPU per frame of the whole tree", ours, 0.3, "ms", f"frames of {FRAME_BYTES:,} bytes"
        ),
    ]


def measure_text(say: Say) -> Section:
    """Measure both servers in turn, then ours with half the load that it answered."""
    pairs: list[Pair] = []
    halves: list[Run] = []
    with _both(say, "spam", "texts", TEXT_STREAMS) as (server, pair):
        for number in range(ROUNDS):
            say(f"round {number + 1} of {ROUNDS}: {TEXT_STREAMS} streams that wait for each answer")
            pairs.append(pair(TEXT_SECONDS, 1))
            say(f"round {number + 1} of {ROUNDS}: half of that rate, on a schedule")
            rate = pairs[-1][0].rate / 2 / TEXT_STREAMS
            half = Load(server.url, "spam", "texts", TEXT_STREAMS, HALF_SECONDS, rate=rate)
            halves.append(drive(server, [half]))
    return text_section(pairs, halves)


def text_section(pairs: list[Pair], halves: list[Run]) -> Section:
    """Make the section of all rounds: of closed loops on both servers, and of half the rate on a schedule."""
    ours, theirs = zip(*pairs, strict=True)
    size = statistics.median(map(len, TEXTS))
    per_cpu = [statistics.median(run.per_cpu for run in runs) for runs in (ours, theirs)]
    rate = statistics.median(run.rate for run in ours)
    ages = statistics.median(percentile([age for _, age, _ in half.answers], 99) for half in halves)
    figures = (
        at_least(
            "text: answers per CPU second, to the baseline's",
            (a.per_cpu / b.per_cpu for a, b in pairs),
            10.0,
            "x",
            f"{per_cpu[0]:,.0f} to {per_cpu[1]:,.0f}; {rate:,.0f}/s; texts of {size:.0f} characters",
        ),
        at_most(
            "text: p99 at half that rate, from scheduled to answered",
            (percentile([late for _, _, late in half.answers], 99) for half in halves),
            25.0,
            "ms",
            f"by the server's age_ms {ages:.1f} ms",
        ),
        unaccounted("text: items unaccounted for", (*ours, *halves)),
    )
    return Section(
        "text",
        f"{TEXT_STREAMS} clients send texts to the model spam: first each waits for its answer, beside aiohttp "
        "with a pool of processes and one `predict_proba` a text; then half as many texts as were answered go out "
        "on a schedule.",
        figures,
        void=first_void(halves),
    )
