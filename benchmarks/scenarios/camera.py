"""Cameras on a fixed schedule, policy `latest`: the age of answers, from the capture of a frame to its answer."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.failures import RunFailed
from benchmarks.load.accounts import due_before
from benchmarks.load.run import Run
from benchmarks.report.results import Grid, Plot, Say, Section, Series, at_least, at_most, none
from benchmarks.report.stats import jain
from benchmarks.scenarios.catalogue import DEFAULT, Options
from benchmarks.scenarios.target import Target, target

STREAMS = 24
"""At 15 frames a second twice what two cores answer, because servers differ under overload."""

SECONDS, QUICK_SECONDS = 20.0, 4.0
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """Freshness in a run of cameras."""

    rate: float  # answers per second of all streams
    fresh: float  # of those, the ones that are not stale
    ages: tuple[float, ...]  # milliseconds from capture to answer: p50, p90, p99, max
    dropped: float  # share of the frames that the server dropped
    jain: float  # fairness of the answers per stream
    least: float  # fresh answers per second of the stream with the fewest


def freshness(run: Run, fresh_ms: float, until: float) -> Freshness:
    """Compute the freshness of the frames that were due before `until` (`Load.measured_s`)."""
    waits = ([(at, age_ms) for at, _, age_ms in account.answers] for account in run.streams)
    ages = [due_before(stream, until) for stream in waits]
    fresh = [sum(age_ms <= fresh_ms for _, age_ms in stream) / until for stream in ages]
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
    found = freshness(run, options.fresh_ms, run.measured_s)
    about = (
        f"{streams} cameras of {options.fps:g} frames per second sent {server.items} to {server.model} "
        f"for {seconds:g} s, without waiting for answers, with the policy `latest`. Age is the time from a frame's "
        "capture, as scheduled, to its answer's arrival, by the client's clock. An answer older than "
        f"{options.fresh_ms:g} ms is stale. The last frame of each camera, which no newer one replaces, is not "
        f"measured. {server.sharing}"
    )
    figures = (
        at_most("camera: age p99", found.ages[2], options.fresh_ms, "ms"),
        at_least("camera: Jain index of answers per stream", found.jain, 0.99),
        none("camera: errors", run.errors, f"of {run.sent:,} frames"),
        none("camera: frames unaccounted for or never sent", run.unaccounted + run.unsent),
    )
    grids = (_grid(server, run, found, streams * options.fps),)
    return [Section("camera", about, figures, grids, (over_time(run, options.fresh_ms),), run.void)]


def _grid(server: Target, run: Run, found: Freshness, offered: float) -> Grid:
    p50, p90, p99, most = found.ages
    rows: list[tuple[str | float, ...]] = [
        ("frames offered", offered, "1/s"),
        ("answers", found.rate, "1/s"),
        ("fresh answers (goodput)", found.fresh, "1/s"),
        ("fresh answers of the stream with fewest", found.least, "1/s"),
        ("age p50", p50, "ms"),
        ("age p90", p90, "ms"),
        ("age p99", p99, "ms"),
        ("age max", most, "ms"),
        ("frames dropped for newer ones", found.dropped * 100, "%"),
        ("the generator's own lag, p99", run.lag.percentile(99), "ms"),
    ]
    if server.program:
        rows.append(("CPU of the server's tree per answer", server.cpu_ms(run), "ms"))
    return Grid("cameras", ("what", "value", "unit"), tuple(rows))


def over_time(run: Run, fresh_ms: float) -> Plot:
    """Plot the age of answers during a run."""
    return Plot(
        "Age of answers over time",
        "seconds since the start",
        "age, ms",
        (
            Series("stream-server, p99", tuple((moment.at, moment.p99) for moment in run.timeline)),
            Series("median", tuple((moment.at, moment.p50) for moment in run.timeline)),
        ),
        limit=fresh_ms,
        limit_name="stale",
    )
