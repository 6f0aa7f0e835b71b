"""What serving adds: the server beside the same work in a bare loop, its latency, its growth, its stalls."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.request import urlopen

from benchmarks.load.generator import Load
from benchmarks.load.payloads import FRAME_BYTES
from benchmarks.load.run import Run, drive, first_void
from benchmarks.load.servers import Program, serving
from benchmarks.report.results import Figure, Plot, Say, Section, Series
from benchmarks.report.stats import percentile
from benchmarks.scenarios.bare import BATCH, Bare, bare

ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS, QUICK_SECONDS = 4.0, 1.5
IDLE_FPS = 15.0
"""For twice a run's seconds: 120 frames a round, of which a 99th percentile is not the greatest."""

STREAMS = (1, 10, 100, 1000)
FRAMES_PER_S = 1000.0
"""Of all streams together, however many there are: far below what the null model carries, so that nothing else than
their number differs."""

STALL_LOADS = (("faces", "portrait", "latest", 24, 15.0), ("echo", "frame", "queue", 8, 100.0))
"""Model, payload, policy, streams and items a second of each: an overload, and many frames beside it."""


def measure(say: Say, quick: bool) -> list[Section]:
    """Measure all of it, each in rounds with what it is compared to."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    seconds = QUICK_SECONDS if quick else SECONDS
    return [
        faces(say, rounds, seconds),
        spam(say, rounds, seconds),
        growth(say, rounds, seconds),
        stall(say, seconds),
    ]


@dataclass(frozen=True, slots=True)
class FacesRound:
    """Runs next to each other: the bare loops, the busy server between them, then both with one frame at a time."""

    natural: Bare
    server: Run
    ours: Bare
    alone: Run
    paced: Bare


def faces(say: Say, rounds: int, seconds: float) -> Section:
    """Measure the model faces beside bare loops, busy and idle."""
    measured = []
    with serving("faces", "--workers", "1") as server:

        def load(streams: int, seconds: float, rate: float | None = None) -> Run:
            return drive(server, [Load(server.url, "faces", "portrait", streams, seconds, "queue", rate)])

        load(2, 1.0)
        for number in range(rounds):
            say(f"faces, round {number + 1} of {rounds}: beside bare loops, busy and idle")
            measured.append(
                FacesRound(
                    bare("faces-natural", seconds),
                    load(2, seconds),
                    bare("faces-ours", seconds),
                    load(1, 2 * seconds, IDLE_FPS),
                    bare("faces-ours", 2 * seconds, IDLE_FPS),
                )
            )
    return Section(
        "speed: faces",
        "The model faces with one worker, on JPEGs of 640x480: CPU of the server's whole tree per frame, from two "
        "clients that wait for each answer, beside the same work in one process without a server. The bare loops "
        f"run in the same minute, not at the same time. Idle latency is of one client with {IDLE_FPS:g} frames a "
        "second, less the median of our bare loop at that pace: a processor that sleeps between frames is slower.",
        tuple(faces_figures(measured)),
        void=first_void(run for one in measured for run in (one.server, one.alone)),
    )


def faces_figures(measured: Sequence[FacesRound]) -> list[Figure]:
    """Compare the rounds of the model faces."""
    costs = [1e3 / one.server.per_cpu for one in measured]
    natural, ours = (
        [loop.cpu_ms for loop in loops]
        for loops in zip(*((m.natural, m.ours) for m in measured), strict=True)
    )
    added = [
        [age - statistics.median(one.paced.times_ms) for a in one.alone.streams for _, age, _ in a.answers]
        for one in measured
    ]
    cost = f"{statistics.median(costs):.2f} ms of CPU a frame"
    return [
        Figure(
            "faces: CPU per frame, to cv2.imdecode + cv2.FaceDetectorYN in a bare loop",
            tuple(a / b for a, b in zip(costs, natural, strict=True)),
            "x",
            "<=",
            0.55,
            f"{cost} to {statistics.median(natural):.2f}",
        ),
        Figure(
            "faces: CPU per frame, to our decode and detection in a bare loop",
            tuple(a / b for a, b in zip(costs, ours, strict=True)),
            "x",
            "<=",
            1.05,
            f"{cost} to {statistics.median(ours):.2f}",
        ),
        Figure(
            "faces, idle: receipt to answer, beyond the bare inference, p50",
            tuple(percentile(of_round, 50) for of_round in added),
            "ms",
            "<=",
            1.0,
            f"bare {statistics.median(statistics.median(m.paced.times_ms) for m in measured):.2f} ms",
        ),
        Figure(
            "faces, idle: receipt to answer, beyond the bare inference, p99",
            tuple(percentile(of_round, 99) for of_round in added),
            "ms",
            "<=",
            5.0,
        ),
    ]


def spam(say: Say, rounds: int, seconds: float) -> Section:
    """Measure the model spam beside a bare loop."""
    pairs = []
    with serving("spam") as server:

        def load(seconds: float) -> Run:
            return drive(server, [Load(server.url, "spam", "texts", 64, seconds)])

        load(1.0)
        for number in range(rounds):
            say(f"spam, round {number + 1} of {rounds}: beside a bare loop of predict_proba")
            pairs.append((load(seconds), bare("spam", seconds)))
    loops = statistics.median(loop.cpu_ms for _, loop in pairs)
    return Section(
        "speed: spam",
        "64 clients that send a text each and wait for its answer, beside scikit-learn's predict_proba on the "
        f"same texts in batches of {BATCH}, in one process without a server.",
        (
            Figure(
                "spam: answers per CPU second, to a bare predict_proba in batches",
                tuple(run.per_cpu * loop.cpu_ms / 1e3 for run, loop in pairs),
                "x",
                ">=",
                0.35,
                f"{statistics.median(1e3 / run.per_cpu for run, _ in pairs):.4f} ms of CPU a text to {loops:.4f}; "
                f"{statistics.median(run.rate for run, _ in pairs):,.0f} texts/s",
            ),
        ),
        void=first_void(run for run, _ in pairs),
    )


def growth(say: Say, rounds: int, seconds: float) -> Section:
    """Measure what a frame costs by the number of streams."""
    costs: dict[int, list[float]] = {streams: [] for streams in STREAMS}
    runs: list[Run] = []
    with serving("echo", "--set", f"limits.max_streams_per_peer={max(STREAMS)}") as server:
        for number in range(rounds):
            say(f"growth, round {number + 1} of {rounds}: {', '.join(map(str, STREAMS))} streams")
            for streams, into in costs.items():
                run = drive(
                    server,
                    [Load(server.url, "echo", "frame", streams, seconds, "queue", FRAMES_PER_S / streams)],
                )
                into.append(1e3 / run.per_cpu)
                runs.append(run)
    medians = {streams: statistics.median(values) for streams, values in costs.items()}
    return Section(
        "speed: growth",
        f"The null model with {FRAMES_PER_S:,.0f} frames of {FRAME_BYTES:,} bytes a second in total, from one "
        "stream or from many: what a frame costs must not depend on how many others are connected.",
        (
            Figure(
                f"growth: CPU per frame, dearest to cheapest of {', '.join(f'{s:,}' for s in STREAMS)} streams",
                # of medians: the extremes of each round would say how much rounds differ
                (max(medians.values()) / min(medians.values()),),
                "x",
                "<=",
                1.15,
                ", ".join(f"{streams:,}: {cost:.3f} ms" for streams, cost in medians.items()),
            ),
        ),
        plots=(
            Plot(
                "CPU per frame by the number of streams",
                "streams",
                "CPU per frame of the whole tree (ms)",
                (
                    Series(
                        "stream-server",
                        tuple(enumerate(medians.values())),
                        tuple((min(values), max(values)) for values in costs.values()),
                    ),
                ),
                "bar",
                tuple(f"{streams:,}" for streams in STREAMS),
            ),
        ),
        void=first_void(runs),
    )


def stall(say: Say, seconds: float) -> Section:
    """Measure the event loop's lag under overload."""
    say("stall: the event loop's lag under overload")
    with serving("faces", "--model", "echo") as server:
        loads = [
            Load(server.url, model, payload, streams, 2 * seconds, policy, rate)
            for model, payload, policy, streams, rate in STALL_LOADS
        ]
        run = drive(server, loads)
        p99, largest = (1e3 * loop_lag(server, which) for which in ("p99", "max"))
    return Section(
        "speed: stall",
        "How late the event loop was, by its own monitor, which looks every 20 ms: 24 cameras at 15 frames a "
        "second on the model faces and 800 frames a second on the null model at once, handshakes included. On a "
        "machine whose cores are all taken it contains what the kernel let other processes run first.",
        (
            Figure(
                "stall: the event loop's lag under load, at its worst",
                (largest,),
                "ms",
                "<=",
                50.0,
                f"p99 {p99:.1f} ms; {run.results:,} answers in {run.seconds:.0f} s",
            ),
        ),
        void=run.void,
    )


def loop_lag(server: Program, which: str) -> float:
    """Read how late a server's event loop was lately, in seconds: its `p99` or its `max`."""
    with urlopen(f"{server.url}/metrics", timeout=10) as response:  # noqa: S310  # of a server started here
        found = re.search(rf"^stream_loop_lag_{which}_seconds (\S+)$", response.read().decode(), re.MULTILINE)
    assert found, "the server tells its event loop's lag"
    return float(found[1])
