"""Cameras that keep their own time: how fresh the answers are, when each runs from the capture of its frame.

S streams of F frames per second are sent on schedule, whatever is answered, with the policy `latest`. A frame's
clock starts when it is due to be captured and stops when its answer is there: nothing on the way is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.failures import RunFailed
from benchmarks.load.run import Run
from benchmarks.report.results import Figure, Grid, Plot, Say, Section, Series, none
from benchmarks.report.stats import jain
from benchmarks.scenarios.options import DEFAULT, Options
from benchmarks.scenarios.target import Target, target

STREAMS = 24
"""At 15 frames a second twice what two cores answer, since it is overload that tells servers apart."""

SECONDS, QUICK_SECONDS = 20.0, 4.0
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a run of cameras comes to.

    Attributes:
        rate, fresh: answers per second, and those of them that are not stale; of all streams.
        ages: milliseconds from capture to answer, p50, p90, p99 and the most.
        dropped: share of the frames that the server dropped.
        jain: fairness of the answers per stream.
        least: fresh answers per second of the stream that has fewest.
    """

    rate: float
    fresh: float
    ages: tuple[float, ...]
    dropped: float
    jain: float
    least: float


def freshness(run: Run, max_age_ms: float, until: float) -> Freshness:
    """Work a run of cameras out.

    Args:
        until: the seconds from its start in which a frame had to be due to be measured, see `Load.measured_s`.
    """
    ages = [
        [age_ms for at, _, age_ms in account.answers if at - age_ms / 1e3 < until] for account in run.streams
    ]
    fresh = [sum(age_ms <= max_age_ms for age_ms in stream) / until for stream in ages]
    return Freshness(
        sum(map(len, ages)) / until,
        sum(fresh),
        run.latency.percentiles(50, 90, 99, 100),
        run.dropped / run.sent if run.sent else 0.0,
        jain([len(stream) for stream in ages]),
        min(fresh),
    )


def measure(say: Say, quick: bool, options: Options = DEFAULT) -> list[Section]:
    """Run the cameras once, after a warm-up."""
    streams = options.streams or STREAMS
    seconds = options.seconds or (QUICK_SECONDS if quick else SECONDS)
    with target(say, options, "faces") as server:
        say("warming up")
        server.closed(4, WARM_UP_S, "latest")
        say(f"{streams} cameras of {options.fps:g} frames a second, for {seconds:g} s")
        run = server.scheduled(streams, options.fps, seconds, policy="latest")
    if not run.results:
        raise RunFailed(f"no frame was answered; there were {run.errors} errors")
    return [_section(server, run, options, (streams, seconds))]


def _section(server: Target, run: Run, options: Options, shape: tuple[int, float]) -> Section:
    streams, seconds = shape
    found = freshness(run, options.max_age_ms, run.measured_s)
    return Section(
        "camera",
        f"{streams} cameras of {options.fps:g} frames per second sent {server.items} to {server.model} "
        f"for {seconds:g} s, on a schedule that waits for nothing, with the policy `latest`. Age is the time from "
        "a frame's capture, as scheduled, to its answer's arrival, by the client's clock. An answer older than "
        f"{options.max_age_ms:g} ms is stale. The last frame of each camera, which no newer one replaces, is not "
        f"measured. {server.sharing}",
        (
            Figure("camera: age p99", (found.ages[2],), "ms", "<=", options.max_age_ms),
            Figure("camera: Jain index of answers per stream", (found.jain,), "", ">=", 0.99),
            none("camera: errors", run.errors, f"of {run.sent:,} frames"),
            none("camera: frames unaccounted for or never sent", run.unaccounted + run.unsent),
        ),
        (_grid(server, run, found, streams * options.fps),),
        (over_time(run, options.max_age_ms),),
        run.void,
    )


def _grid(server: Target, run: Run, found: Freshness, offered: float) -> Grid:
    rows: list[tuple[str | float, ...]] = [
        ("frames offered", offered, "1/s"),
        ("answers", found.rate, "1/s"),
        ("fresh answers (goodput)", found.fresh, "1/s"),
        ("fresh answers of the stream with fewest", found.least, "1/s"),
        *(
            (f"age {name}", age, "ms")
            for name, age in zip(("p50", "p90", "p99", "max"), found.ages, strict=True)
        ),
        ("frames dropped for newer ones", found.dropped * 100, "%"),
        ("the generator's own lag, p99", run.lag.percentile(99), "ms"),
    ]
    if server.program:
        rows.append(("CPU of the server's tree per answer", server.cpu_ms(run), "ms"))
    return Grid("cameras", ("what", "value", "unit"), tuple(rows))


def over_time(run: Run, max_age_ms: float) -> Plot:
    """Draw how old the answers were in the course of a run."""
    return Plot(
        "Age of answers over time",
        "seconds since the start",
        "age, ms",
        (
            Series("stream-server, p99", tuple((moment.at, moment.p99) for moment in run.timeline)),
            Series("median", tuple((moment.at, moment.p50) for moment in run.timeline)),
        ),
        limit=max_age_ms,
        limit_name="stale",
    )
