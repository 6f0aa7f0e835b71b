"""The cost of moving a frame to a worker and its answer back: the null model, beside a process pool."""

from __future__ import annotations

import statistics

from benchmarks.load.generator import Load
from benchmarks.load.payloads import FRAME_BYTES
from benchmarks.load.run import Run, drive, first_void
from benchmarks.load.servers import Program, serving
from benchmarks.peers.catalogue import AIOHTTP
from benchmarks.peers.launcher import serving_peer
from benchmarks.report.results import Figure, Say, Section, at_most

STREAMS = 8
WINDOWS = 1, 4
"""Frames in flight of a stream. One is the most expensive case, since nothing can be sent ahead."""

ROUNDS = 3
SECONDS = 2.5


def measure(say: Say) -> Section:
    """Measure both servers in turn at each window."""
    with serving("echo") as server, serving_peer(AIOHTTP, "echo") as baseline:

        def closed(program: Program, window: int, seconds: float = SECONDS) -> Run:
            load = Load(
                program.url,
                "echo",
                "frame",
                STREAMS,
                seconds,
                window=window,
                transport=program.transport,
            )
            return drive(program, [load])

        say("warming up")
        for program in (server, baseline):
            closed(program, 1, 1.0)
        rounds: dict[int, list[tuple[Run, Run]]] = {window: [] for window in WINDOWS}
        for number in range(ROUNDS):
            for window in WINDOWS:
                say(f"round {number + 1} of {ROUNDS}: {STREAMS} streams, {window} in flight")
                rounds[window].append((closed(server, window), closed(baseline, window)))
    return Section(
        "dispatch",
        f"{STREAMS} clients, each with one or with several frames of {FRAME_BYTES:,} bytes in flight, send the "
        "next to the null model when one is answered, beside aiohttp with a pool of processes.",
        tuple(figure for window in WINDOWS for figure in _figures(window, rounds[window])),
        void=first_void(run for pairs in rounds.values() for pair in pairs for run in pair),
    )


def _figures(window: int, rounds: list[tuple[Run, Run]]) -> list[Figure]:
    name = f"dispatch, {window} in flight"
    costs = [(1e3 / ours.per_cpu, 1e3 / theirs.per_cpu) for ours, theirs in rounds]
    ours, theirs = zip(*costs, strict=True)
    rates = [statistics.median(run.rate for run in runs) for runs in zip(*rounds, strict=True)]
    return [
        at_most(
            f"{name}: CPU per frame, to the baseline's",
            (a / b for a, b in costs),
            0.4,
            "x",
            f"the baseline's {statistics.median(theirs):.3f} ms; {rates[0]:,.0f} and {rates[1]:,.0f} frames/s",
        ),
        at_most(
            f"{name}: CPU per frame of the whole tree", ours, 0.3, "ms", f"frames of {FRAME_BYTES:,} bytes"
        ),
    ]
