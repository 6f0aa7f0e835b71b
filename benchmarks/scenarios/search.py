"""How many cameras a server sustains, found by bisection.

Sustained means: 99 % of the answers are not stale, every camera gets enough fresh ones per second, there are no
errors, and every frame is accounted for. Each step is an open loop, long enough for a 99th percentile; the numbers
on both sides of the result are decided by two of three steps.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.failures import Refused, RunFailed
from benchmarks.load.run import Run
from benchmarks.report.results import Grid, Plot, Say, Section, Series, grid
from benchmarks.scenarios.camera import Freshness, freshness
from benchmarks.scenarios.catalogue import DEFAULT, Options
from benchmarks.scenarios.target import STREAMS_MOST, Target, target

ANSWERS, QUICK_ANSWERS = 1000, 200
"""Answers of a step. Of a thousand, ten +- three (binomial) are above the 99th percentile, so the measured one lies
between the true 98.7th and 99.3rd; in a quick step above the 97th."""

LONGEST_S, QUICK_LONGEST_S = 30.0, 4.0
"""Longest step, of few cameras, which may have fewer answers."""

SHORTEST_S = 3.0
"""Shortest step: in a shorter one the rate of a stream depends on when its first and last frame were due."""

RESOLUTION, QUICK_RESOLUTION = 0.05, 0.2
"""Relative distance of the bounds of the result, below the difference of two runs of the same load."""

MARGIN = 1.5
"""Ratio of answers in closed loops to those under overload, where dropped frames take time to read."""

CLOSED_STREAMS, CLOSED_S = 8, 2.0

VOTES, QUICK_VOTES = 2, 1
"""How many runs must agree on the numbers next to the result: a few frames decide one run's 99th percentile and
slowest stream, so a disturbance would look like a limit of the server."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a number of cameras."""

    streams: int
    fails: str  # why the number is not sustained; empty if it is
    found: Freshness | None = None  # None if the server refused a camera
    answers: int = 0  # number of results
    void: str = ""  # why the run does not count


def largest(
    holds: Callable[[int], bool], first: int, most: int, resolution: float = RESOLUTION, votes: int = 1
) -> tuple[int, int]:
    """Find the largest number for which a monotonic but noisy predicate holds, to within a resolution.

    A number's answers may differ by chance, so their majority counts; the search goes on until both bounds are
    confirmed.

    Args:
        first: a guess to start from.
        most: the largest number to try.
        votes: how many equal answers confirm a number.

    Returns:
        The number, and the least that is too large: 0 and 1 if it does not hold for 1, `most` and `most + 1` if it
        holds for `most`.
    """
    said: defaultdict[int, list[bool]] = defaultdict(list)

    def majority(number: int) -> bool:
        if not said[number]:
            said[number].append(holds(number))
        return sum(said[number]) * 2 > len(said[number])

    while True:
        bounds = bisect(majority, first, most, resolution)
        unsure = [
            number
            for number in bounds
            if 1 <= number <= most and max(map(said[number].count, (True, False))) < votes
        ]
        if not unsure:
            return bounds
        said[unsure[0]].append(holds(unsure[0]))


def bisect(holds: Callable[[int], bool], first: int, most: int, resolution: float) -> tuple[int, int]:
    """Find the bounds of a predicate without noise; see `largest`."""
    low, high = 0, most + 1
    trial = min(max(1, first), most)
    while high - low > max(1, low * resolution):
        if holds(trial):
            low = trial
            trial = min(2 * low, (low + high) // 2) if high <= most else min(2 * low, most)
        else:
            high = trial
            trial = (low + high) // 2
        if low == most:
            break
    return low, high


def length(streams: int, fps: float, capacity: float, *, quick: bool) -> float:
    """Give the seconds of a step; `capacity` is the server's answers per second in closed loops."""
    answers, longest = (QUICK_ANSWERS, QUICK_LONGEST_S) if quick else (ANSWERS, LONGEST_S)
    return min(longest, max(SHORTEST_S, math.ceil(answers / min(streams * fps, capacity / MARGIN))))


def fails(run: Run, found: Freshness, options: Options) -> str:
    """Say why a run's cameras are not sustained; "" if they are."""
    reasons = (
        (bool(run.void), "void"),
        (bool(run.errors), f"{run.errors} errors"),
        (bool(run.unaccounted), f"{run.unaccounted} frames unaccounted for"),
        (bool(run.unsent), f"{run.unsent} frames never sent"),
        (found.least < options.sustained_rate, f"a stream with {found.least:.1f} fresh answers/s"),
        (not found.ages[2] <= options.fresh_ms, "stale"),
    )
    return ", ".join(reason for holds, reason in reasons if holds)


def measure(say: Say, quick: bool, options: Options = DEFAULT) -> list[Section]:
    """Search, starting from the number of cameras of which the server could answer every frame."""
    steps: list[Step] = []
    with target(say, options, "faces") as server:
        capacity = _capacity(say, server)

        def holds(streams: int) -> bool:
            seconds = options.seconds or length(streams, options.fps, capacity, quick=quick)
            say(f"{streams} cameras of {options.fps:g} frames a second, for {seconds:g} s")
            steps.append(_step(server, streams, seconds, options))
            return not steps[-1].fails

        best, beyond = largest(
            holds,
            round(capacity / options.fps),
            options.streams or STREAMS_MOST,
            QUICK_RESOLUTION if quick else RESOLUTION,
            QUICK_VOTES if quick else VOTES,
        )
    return [section(server, sorted(steps, key=lambda step: step.streams), (best, beyond), options)]


def _capacity(say: Say, server: Target) -> float:
    """Measure the answers per second in closed loops, of fewer streams if the server refuses some."""
    streams = CLOSED_STREAMS
    while True:
        say(f"{streams} streams that wait for each answer")
        try:
            capacity = server.closed(streams, CLOSED_S, "latest").rate
        except Refused:
            if streams == 1:
                raise
            streams //= 2
            continue
        if not capacity:
            raise RunFailed("the server gives no results")
        return capacity


def _step(server: Target, streams: int, seconds: float, options: Options) -> Step:
    try:
        run = server.scheduled(streams, options.fps, seconds, policy="latest")
    except Refused as exc:
        return Step(streams, f"refused: {exc.code}")
    found = freshness(run, options.fresh_ms, run.measured_s)
    return Step(streams, fails(run, found, options), found, run.results, run.void)


def section(server: Target, steps: list[Step], bounds: tuple[int, int], options: Options) -> Section:
    """Make the section of all steps, sorted by their number of cameras; `bounds` are those of `largest`."""
    best, beyond = bounds
    void = next((step.void for step in steps if step.streams == beyond and step.void), "")
    least = f"the largest number of cameras is at least {best}"
    return Section(
        "search",
        f"{_outcome(best, None if void or beyond > steps[-1].streams else beyond)}: cameras of {options.fps:g} "
        f"frames per second that send {server.items} to {server.model}, without waiting for answers, with "
        f"the policy `latest`. Sustained means that 99 % of the answers are at most {options.fresh_ms:g} ms old, "
        f"from capture to arrival, that every camera gets at least {options.sustained_rate:g} of them per second, "
        "and that nothing fails or is refused. With more cameras, a server with `latest` answers fewer frames of "
        "each, not later ones. A row is one run; where there are several of a number, their majority decides. "
        f"{server.sharing}",
        grids=(_grid(steps),),
        plots=(_ages(steps, options.fresh_ms), _rates(steps, options.sustained_rate)),
        void=f"{void}; {least}" if void else "",
    )


def _outcome(best: int, beyond: int | None) -> str:
    if beyond is None:
        return f"At least {best} cameras are sustained"
    if not best:
        return (
            "Not even one camera is sustained"
            if beyond == 1
            else f"Fewer than {beyond} cameras are sustained"
        )
    return f"About {best} cameras are sustained, and {beyond} are not"


def _grid(steps: list[Step]) -> Grid:
    def of(value: Callable[[Freshness], float]) -> Callable[[Step], str | float]:
        return lambda step: "none" if not step.found or math.isnan(value(step.found)) else value(step.found)

    columns: dict[str, Callable[[Step], str | float]] = {
        "cameras": lambda step: str(step.streams),
        "age p50, ms": of(lambda found: found.ages[0]),
        "age p99, ms": of(lambda found: found.ages[2]),
        "fresh answers/s": of(lambda found: found.fresh),
        "slowest stream": of(lambda found: found.least),
        "dropped, %": of(lambda found: found.dropped * 100),
        "answers": lambda step: f"{step.answers:,}" if step.found else "none",
        "sustained": lambda step: step.fails or "yes",
    }
    return grid("steps", steps, columns)


def _ages(steps: list[Step], fresh_ms: float) -> Plot:
    return Plot(
        "Age of answers against the number of cameras",
        "cameras",
        "age, ms",
        (
            _series("stream-server, p99", steps, lambda found: found.ages[2]),
            _series("median", steps, lambda found: found.ages[0]),
        ),
        limit=fresh_ms,
        limit_name="stale",
    )


def _rates(steps: list[Step], sustained_rate: float) -> Plot:
    return Plot(
        "Fresh answers of the camera that gets fewest",
        "cameras",
        "answers per second",
        (_series("stream-server", steps, lambda found: found.least),),
        limit=sustained_rate,
        limit_name="enough",
    )


def _series(name: str, steps: list[Step], value: Callable[[Freshness], float]) -> Series:
    """Plot a value by the number of cameras: the median of its runs, and their spread."""
    runs: defaultdict[int, list[float]] = defaultdict(list)
    for step in steps:
        if step.found and not math.isnan(value(step.found)):
            runs[step.streams].append(value(step.found))
    return Series(
        name,
        tuple((float(streams), statistics.median(values)) for streams, values in runs.items()),
        tuple((min(values), max(values)) for values in runs.values()),
    )
