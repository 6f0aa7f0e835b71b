"""What serving adds: the server beside the same work in a bare loop, its latency, growth with streams, and stalls.

A bare loop does a model's work in one process without a server: ``python -m benchmarks.scenarios.baseline MODEL
SECONDS`` prints what it measured as JSON.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.request import urlopen

import msgspec

from benchmarks.failures import RunFailed
from benchmarks.load.generator import Load
from benchmarks.load.payloads import FRAME_BYTES, TEXTS, portrait
from benchmarks.load.run import Run, drive, first_void
from benchmarks.load.servers import ONE_THREAD, Program, serving
from benchmarks.load.subprocesses import call, say
from benchmarks.report.results import Figure, Plot, Say, Section, Series, at_least, at_most
from benchmarks.report.stats import percentile

ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS, QUICK_SECONDS = 4.0, 1.5
IDLE_FPS = 15.0
"""For twice a run's seconds: 120 frames a round, so that the 99th percentile is not the maximum."""

STREAMS = (1, 10, 100, 1000)
FRAMES_PER_S = 1000.0
"""Of all streams together: far below the capacity of the null model, so that only the number of streams differs."""

STALL_LOADS = (("faces", "portrait", "latest", 24, 15.0), ("echo", "frame", "queue", 8, 100.0))
"""Model, payload, policy, streams and items a second of each: an overload, and many frames beside it."""

BATCH = 128
"""Texts per call of the bare loop: the largest batch of the model `spam`."""

GRACE_S = 60.0
"""How long a bare loop may take beyond its work; importing scikit-learn takes up to five seconds."""


class Bare(msgspec.Struct, frozen=True):
    """What a bare loop measured."""

    items: int  # how many it processed
    cpu_ms: float  # CPU milliseconds per item
    times_ms: list[float]  # wall time of each call


def bare(model: str, seconds: float, pace: float | None = None) -> Bare:
    """Run a bare loop in its own process, single-threaded as a worker is.

    Args:
        pace: calls per second; None for one after the other.

    Raises:
        RunFailed: the process failed, or did not end within `GRACE_S` after its work.
    """
    flags = ["--pace", str(pace)] if pace else []
    try:
        return call(
            "benchmarks.scenarios.baseline",
            *(model, str(seconds), *flags),
            seconds=seconds + GRACE_S,
            kind=Bare,
            env={**ONE_THREAD, "ORT_DISABLE_TELEMETRY": "1"},
        )
    except RunFailed as exc:
        raise RunFailed(f"the bare loop of {model}: {exc}") from exc


def _work(model: str) -> tuple[Callable[[], object], int]:
    """Give a call of the bare loop, and its items."""
    if model == "spam":
        from inference.models.spam import WEIGHTS, Weights, normalise  # noqa: PLC0415  # only this loop has it
        from inference.training.spam import pipeline_of  # noqa: PLC0415  # as above

        pipeline = pipeline_of(Weights.read(WEIGHTS.read_bytes()))
        texts = [TEXTS[number % len(TEXTS)] for number in range(BATCH)]
        return lambda: pipeline.predict_proba([normalise(text) for text in texts]), BATCH
    from benchmarks.peers.work import MODELS  # noqa: PLC0415  # as above

    predict = MODELS[model]()
    (picture,) = portrait()
    return lambda: predict(picture), 1


def loop(call: Callable[[], object], size: int, seconds: float, pace: float | None) -> Bare:
    """Call repeatedly, at least once, after three calls of warm-up; `size` is the number of items per call."""
    for _ in range(3):
        call()
    times: list[float] = []
    used, begun = time.process_time(), time.perf_counter()
    while (at := time.perf_counter()) - begun < seconds or not times:
        if pace:
            # the load itself: the core must sleep between calls, as between the frames of a camera
            time.sleep(max(0.0, begun + len(times) / pace - at))
            at = time.perf_counter()
        call()
        times.append((time.perf_counter() - at) * 1e3)
    items = size * len(times)
    return Bare(items, (time.process_time() - used) / items * 1e3, times)


def measure(say: Say, quick: bool) -> list[Section]:
    """Measure all of it, each part in rounds with what it is compared to."""
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
    """Consecutive runs: the bare loops with the busy server between them, then both with one frame at a time."""

    natural: Bare
    server: Run
    ours: Bare
    alone: Run
    paced: Bare


def faces(say: Say, rounds: int, seconds: float) -> Section:
    """Compare the model faces with bare loops, busy and idle."""
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
        f"run in the same minute, not simultaneously. Idle latency is that of one client with {IDLE_FPS:g} frames "
        "a second, less the median of our bare loop at that pace: a processor that has slept is slower.",
        tuple(faces_figures(measured)),
        void=first_void(run for one in measured for run in (one.server, one.alone)),
    )


def faces_figures(measured: Sequence[FacesRound]) -> list[Figure]:
    """Compare the rounds of the model faces."""
    costs = [1e3 / one.server.per_cpu for one in measured]
    added = [
        [age - statistics.median(one.paced.times_ms) for _, age, _ in one.alone.answers] for one in measured
    ]

    def to(what: str, loops: Sequence[Bare], target: float) -> Figure:
        return at_most(
            f"faces: CPU per frame, to {what} in a bare loop",
            (cost / loop.cpu_ms for cost, loop in zip(costs, loops, strict=True)),
            target,
            "x",
            f"{statistics.median(costs):.2f} ms of CPU a frame to "
            f"{statistics.median(loop.cpu_ms for loop in loops):.2f}",
        )

    def beyond(percent: int, target: float, note: str = "") -> Figure:
        name = f"faces, idle: receipt to answer, beyond the bare inference, p{percent}"
        return at_most(name, (percentile(times, percent) for times in added), target, "ms", note)

    paced_ms = statistics.median(statistics.median(one.paced.times_ms) for one in measured)
    return [
        to("cv2.imdecode + cv2.FaceDetectorYN", [one.natural for one in measured], 0.55),
        to("our decode and detection", [one.ours for one in measured], 1.05),
        beyond(50, 1.0, f"bare {paced_ms:.2f} ms"),
        beyond(99, 5.0),
    ]


def spam(say: Say, rounds: int, seconds: float) -> Section:
    """Compare the model spam with a bare loop."""
    pairs = []
    with serving("spam") as server:

        def load(seconds: float) -> Run:
            return drive(server, [Load(server.url, "spam", "texts", 64, seconds)])

        load(1.0)
        for number in range(rounds):
            say(f"spam, round {number + 1} of {rounds}: beside a bare loop of predict_proba")
            pairs.append((load(seconds), bare("spam", seconds)))
    loops = statistics.median(loop.cpu_ms for _, loop in pairs)
    figure = at_least(
        "spam: answers per CPU second, to a bare predict_proba in batches",
        (run.per_cpu * loop.cpu_ms / 1e3 for run, loop in pairs),
        0.35,
        "x",
        f"{statistics.median(1e3 / run.per_cpu for run, _ in pairs):.4f} ms of CPU a text to {loops:.4f}; "
        f"{statistics.median(run.rate for run, _ in pairs):,.0f} texts/s",
    )
    return Section(
        "speed: spam",
        "64 clients that send a text each and wait for its answer, beside scikit-learn's predict_proba on the "
        f"same texts in batches of {BATCH}, in one process without a server.",
        (figure,),
        void=first_void(run for run, _ in pairs),
    )


def growth(say: Say, rounds: int, seconds: float) -> Section:
    """Measure the cost of a frame by the number of streams."""
    costs: dict[int, list[float]] = {streams: [] for streams in STREAMS}
    runs: list[Run] = []
    with serving("echo", max_streams=max(STREAMS)) as server:
        for number in range(rounds):
            say(f"growth, round {number + 1} of {rounds}: {', '.join(map(str, STREAMS))} streams")
            for streams, into in costs.items():
                rate = FRAMES_PER_S / streams
                load = Load(server.url, "echo", "frame", streams, seconds, "queue", rate)
                runs.append(drive(server, [load]))
                into.append(1e3 / runs[-1].per_cpu)
    medians = {streams: statistics.median(values) for streams, values in costs.items()}
    figure = at_most(
        f"growth: CPU per frame, dearest to cheapest of {', '.join(f'{s:,}' for s in STREAMS)} streams",
        # of medians: the extremes of each round would show how much rounds differ
        max(medians.values()) / min(medians.values()),
        1.15,
        "x",
        ", ".join(f"{streams:,}: {cost:.3f} ms" for streams, cost in medians.items()),
    )
    spread = tuple((min(values), max(values)) for values in costs.values())
    plot = Plot(
        "CPU per frame by the number of streams",
        "streams",
        "CPU per frame of the whole tree (ms)",
        (Series("stream-server", tuple(enumerate(medians.values())), spread),),
        "bar",
        tuple(f"{streams:,}" for streams in STREAMS),
    )
    return Section(
        "speed: growth",
        f"The null model with {FRAMES_PER_S:,.0f} frames of {FRAME_BYTES:,} bytes a second in total, from one "
        "stream or from many: the cost of a frame must not depend on how many others are connected.",
        (figure,),
        plots=(plot,),
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
    figure = at_most(
        "stall: the event loop's lag under load, at its worst",
        largest,
        50.0,
        "ms",
        f"p99 {p99:.1f} ms; {run.results:,} answers in {run.seconds:.0f} s",
    )
    return Section(
        "speed: stall",
        "How late the event loop was, by its own monitor, which samples every 20 ms: 24 cameras at 15 frames a "
        "second on the model faces and 800 frames a second on the null model together, handshakes included. If all "
        "cores are busy, it includes the time in which the kernel ran other processes.",
        (figure,),
        void=run.void,
    )


def loop_lag(server: Program, which: str) -> float:
    """Read how late a server's event loop was lately, in seconds: its `p99` or its `max`."""
    with urlopen(f"{server.url}/metrics", timeout=10) as response:  # noqa: S310  # of a server started here
        found = re.search(rf"^stream_loop_lag_{which}_seconds (\S+)$", response.read().decode(), re.MULTILINE)
    assert found, "the server exports its event loop's lag"
    return float(found[1])


def main() -> None:
    """Run one bare loop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios.baseline", description=__doc__)
    parser.add_argument("model", choices=["faces-natural", "faces-ours", "spam"])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--pace", type=float)
    args = parser.parse_args()
    say(loop(*_work(args.model), args.seconds, args.pace))


if __name__ == "__main__":
    main()
