"""How many cameras a server carries: the largest number whose answers are fresh, found by bisection.

Carried means: 99 % of the answers are not stale, every camera gets so many fresh ones per second, there is no
error, and every frame is accounted for. Each step is an open loop of its own, long enough for its 99th percentile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.camera import Freshness, freshness
from benchmarks.driving import Run
from benchmarks.failures import RunFailed
from benchmarks.options import DEFAULT, Options
from benchmarks.results import Grid, Plot, Say, Section, Series
from benchmarks.scenario import STREAMS_MOST, Target, target

ANSWERS, QUICK_ANSWERS = 1000, 200
"""Answers of a step. Ten of a thousand are above the 99th percentile, give or take three (binomial): what is
measured lies between the true 98.7th and 99.3rd. A quick step's is somewhere above the 97th."""

LONGEST_S, QUICK_LONGEST_S = 30.0, 4.0
"""Of a step whose few cameras have fewer answers."""

SHORTEST_S = 3.0
"""Of a step: below, what one stream gets per second depends on how its first and last frame fell."""

RESOLUTION, QUICK_RESOLUTION = 0.05, 0.2
"""How far the bounds of the result may be apart, as a share: less than two runs of the same load differ by."""

MARGIN = 1.5
"""How many times more a server answers in closed loops than under overload: to read what it drops takes time."""

CLOSED_STREAMS, CLOSED_S = 8, 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """One number of cameras that was tried.

    Attributes:
        fails: why it is not carried; empty if it is.
    """

    streams: int
    run: Run
    found: Freshness
    fails: str


def largest(holds: Callable[[int], bool], first: int, most: int, resolution: float = RESOLUTION) -> int:
    """Find the largest number for which something holds, to within a resolution, from a guess on.

    It must hold for everything below a number for which it holds.

    Args:
        most: beyond it nothing is tried.

    Returns:
        The number, at most `most`; 0 if it does not even hold for 1.
    """
    low, high = 0, most + 1
    trial = min(max(1, first), most)
    while high - low > max(1, low * resolution):
        if holds(trial):
            low = trial
            trial = min(2 * low, (low + high) // 2) if high <= most else min(2 * low, most)
        else:
            high = trial
            trial = max(high // 2, (low + high) // 2)
        if low == most:
            break
    return low


def length(streams: int, fps: float, capacity: float, *, quick: bool) -> float:
    """Give the seconds that a step takes for its answers.

    Args:
        capacity: answers per second that the server gives in closed loops.
    """
    answers, longest = (QUICK_ANSWERS, QUICK_LONGEST_S) if quick else (ANSWERS, LONGEST_S)
    return min(longest, max(SHORTEST_S, math.ceil(answers / min(streams * fps, capacity / MARGIN))))


def fails(run: Run, found: Freshness, options: Options) -> str:
    """Say why a run's cameras are not carried; nothing if they are."""
    reasons = (
        (bool(run.void), "void"),
        (bool(run.errors), f"{run.errors} errors"),
        (bool(run.unaccounted), f"{run.unaccounted} frames unaccounted for"),
        (bool(run.unsent), f"{run.unsent} frames kept back"),
        (found.least < options.min_rate, f"a stream with {found.least:.1f} fresh answers/s"),
        (not found.ages[2] <= options.max_age_ms, "stale"),
    )
    return ", ".join(reason for holds, reason in reasons if holds)


def measure(say: Say, quick: bool, options: Options = DEFAULT) -> list[Section]:
    """Search, from the number of cameras on whose every frame the server could answer."""
    steps: list[Step] = []
    with target(options, "faces") as server:
        say(f"{CLOSED_STREAMS} streams that wait for each answer")
        capacity = server.closed(CLOSED_STREAMS, CLOSED_S, "latest").rate
        if not capacity:
            raise RunFailed("the server gives no results")

        def holds(streams: int) -> bool:
            seconds = options.seconds or length(streams, options.fps, capacity, quick=quick)
            say(f"{streams} cameras of {options.fps:g} frames a second, for {seconds:g} s")
            steps.append(_step(server, streams, seconds, options))
            return not steps[-1].fails

        resolution = QUICK_RESOLUTION if quick else RESOLUTION
        best = largest(holds, round(capacity / options.fps), options.streams or STREAMS_MOST, resolution)
    return [_section(server, steps, best, options)]


def _step(server: Target, streams: int, seconds: float, options: Options) -> Step:
    run = server.scheduled(streams, options.fps, seconds, policy="latest")
    found = freshness(run, options.max_age_ms, seconds - 1 / options.fps)
    return Step(streams, run, found, fails(run, found, options))


def _section(server: Target, steps: list[Step], best: int, options: Options) -> Section:
    ordered = sorted(steps, key=lambda step: step.streams)
    beyond = next((step for step in ordered if step.streams > best), None)
    cut = beyond.run.void if beyond else ""
    carried = f"{best} cameras are carried" if beyond and not cut else f"At least {best} cameras are carried"
    if beyond and not cut:
        carried += f", and {beyond.streams} are not"
    return Section(
        "search",
        f"{carried}: cameras of {options.fps:g} frames per second that send 640x480 JPEGs to {server.model} on a "
        "schedule that waits for nothing, with the policy `latest`. Carried means that 99 % of the answers are at "
        f"most {options.max_age_ms:g} ms old, from capture to arrival, that every camera gets at least "
        f"{options.min_rate:g} of them per second, and that nothing fails. With `latest` a server answers fewer "
        f"frames of each camera, the more there are, rather than later ones. {server.sharing}",
        grids=(_grid(ordered),),
        plots=(_ages(ordered, options.max_age_ms), _rates(ordered, options.min_rate)),
        void=f"{cut}; the largest number of cameras is at least {best}" if cut else "",
    )


def _grid(steps: list[Step]) -> Grid:
    headings = (
        "cameras",
        "age p50, ms",
        "age p99, ms",
        "fresh answers/s",
        "of the least stream",
        "dropped, %",
        "answers",
        "carried",
    )
    rows = tuple(
        (
            str(step.streams),
            *(step.found.ages[which] if step.run.latency.count else "none" for which in (0, 2)),
            step.found.fresh,
            step.found.least,
            step.found.dropped * 100,
            f"{step.run.results:,}",
            step.fails or "yes",
        )
        for step in steps
    )
    return Grid("steps", headings, rows)


def _ages(steps: list[Step], max_age_ms: float) -> Plot:
    answered = [step for step in steps if step.run.latency.count]
    return Plot(
        "Age of answers against the number of cameras",
        "cameras",
        "age, ms",
        tuple(
            Series(name, tuple((float(step.streams), step.found.ages[which]) for step in answered))
            for name, which in (("stream-server, p99", 2), ("median", 0))
        ),
        limit=max_age_ms,
        limit_name="stale",
    )


def _rates(steps: list[Step], min_rate: float) -> Plot:
    return Plot(
        "Fresh answers of the camera that gets fewest",
        "cameras",
        "answers per second",
        (Series("stream-server", tuple((float(step.streams), step.found.least) for step in steps)),),
        limit=min_rate,
        limit_name="enough",
    )
