"""How many cameras a server sustains: the largest number whose answers are fresh, found by bisection.

Sustained means: 99 % of the answers are not stale, every camera gets so many fresh ones per second, there is no
error, and every frame is accounted for. Each step is an open loop of its own, long enough for its 99th percentile;
the numbers on both sides of the result are decided by two of three of them.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.failures import Refused, RunFailed
from benchmarks.load.run import Run
from benchmarks.report.results import Grid, Plot, Say, Section, Series
from benchmarks.scenarios.camera import Freshness, freshness
from benchmarks.scenarios.options import DEFAULT, Options
from benchmarks.scenarios.target import STREAMS_MOST, Target, target

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

VOTES, QUICK_VOTES = 2, 1
"""How many runs must agree on the numbers next to the result: one run's 99th percentile and slowest stream are made
by a few frames, and would make of a machine's hiccup a limit of the server."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a number of cameras.

    Attributes:
        fails: why the number is not sustained; empty if it is.
        found: nothing where the server refused a camera.
        answers: results in total.
        void: why the run does not count.
    """

    streams: int
    fails: str
    found: Freshness | None = None
    answers: int = 0
    void: str = ""


def largest(
    holds: Callable[[int], bool], first: int, most: int, resolution: float = RESOLUTION, votes: int = 1
) -> tuple[int, int]:
    """Find the largest number for which something holds, to within a resolution, from a guess on.

    It must hold for everything below a number for which it holds. A first answer may be wrong by chance: the search
    goes on, with what the majority of a number's answers says, until those of both bounds are sure.

    Args:
        most: beyond it nothing is tried.
        votes: how many of a number's answers must be the same for it to be sure.

    Returns:
        The number, at most `most`, and the least that was found too large. The first is 0 if it does not even hold
        for 1, the second `most + 1` if it holds for `most`.
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
    """Find the bounds as `largest` does, of what always answers the same."""
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
    """Give the seconds that a step takes for its answers.

    Args:
        capacity: answers per second that the server gives in closed loops.
    """
    answers, longest = (QUICK_ANSWERS, QUICK_LONGEST_S) if quick else (ANSWERS, LONGEST_S)
    return min(longest, max(SHORTEST_S, math.ceil(answers / min(streams * fps, capacity / MARGIN))))


def fails(run: Run, found: Freshness, options: Options) -> str:
    """Say why a run's cameras are not sustained; nothing if they are."""
    reasons = (
        (bool(run.void), "void"),
        (bool(run.errors), f"{run.errors} errors"),
        (bool(run.unaccounted), f"{run.unaccounted} frames unaccounted for"),
        (bool(run.unsent), f"{run.unsent} frames never sent"),
        (found.least < options.min_rate, f"a stream with {found.least:.1f} fresh answers/s"),
        (not found.ages[2] <= options.max_age_ms, "stale"),
    )
    return ", ".join(reason for holds, reason in reasons if holds)


def measure(say: Say, quick: bool, options: Options = DEFAULT) -> list[Section]:
    """Search, from the number of cameras on whose every frame the server could answer."""
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
    """Give the answers per second of closed loops: of fewer, where the server does not take so many streams."""
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
    found = freshness(run, options.max_age_ms, run.measured_s)
    return Step(streams, fails(run, found, options), found, run.results, run.void)


def section(server: Target, steps: list[Step], bounds: tuple[int, int], options: Options) -> Section:
    """Make the section of all steps.

    Args:
        steps: by the number of cameras.
        bounds: the largest number that is sustained, and the least that is not; see `largest`.
    """
    best, beyond = bounds
    void = next((step.void for step in steps if step.streams == beyond and step.void), "")
    least = f"the largest number of cameras is at least {best}"
    return Section(
        "search",
        f"{_outcome(best, None if void or beyond > steps[-1].streams else beyond)}: cameras of {options.fps:g} "
        f"frames per second that send {server.items} to {server.model} on a schedule that waits for nothing, with "
        f"the policy `latest`. Sustained means that 99 % of the answers are at most {options.max_age_ms:g} ms old, "
        f"from capture to arrival, that every camera gets at least {options.min_rate:g} of them per second, and "
        "that nothing fails or is refused. With `latest` a server "
        "answers fewer frames of each camera, the more there are, rather than later ones. A row is one run; where "
        f"there are several of a number, their majority decides. {server.sharing}",
        grids=(_grid(steps),),
        plots=(_ages(steps, options.max_age_ms), _rates(steps, options.min_rate)),
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
    headings = (
        "cameras",
        "age p50, ms",
        "age p99, ms",
        "fresh answers/s",
        "slowest stream",
        "dropped, %",
        "answers",
        "sustained",
    )
    return Grid("steps", headings, tuple(map(_row, steps)))


def _row(step: Step) -> tuple[str | float, ...]:
    if not step.found:
        return (str(step.streams), *["none"] * 6, step.fails)
    ages = (step.found.ages[which] for which in (0, 2))
    return (
        str(step.streams),
        *("none" if math.isnan(age) else age for age in ages),
        step.found.fresh,
        step.found.least,
        step.found.dropped * 100,
        f"{step.answers:,}",
        step.fails or "yes",
    )


def _ages(steps: list[Step], max_age_ms: float) -> Plot:
    return Plot(
        "Age of answers against the number of cameras",
        "cameras",
        "age, ms",
        (
            _series("stream-server, p99", steps, lambda found: found.ages[2]),
            _series("median", steps, lambda found: found.ages[0]),
        ),
        limit=max_age_ms,
        limit_name="stale",
    )


def _rates(steps: list[Step], min_rate: float) -> Plot:
    return Plot(
        "Fresh answers of the camera that gets fewest",
        "cameras",
        "answers per second",
        (_series("stream-server", steps, lambda found: found.least),),
        limit=min_rate,
        limit_name="enough",
    )


def _series(name: str, steps: list[Step], value: Callable[[Freshness], float]) -> Series:
    """Draw something by the number of cameras: the median of its runs, and how far they are apart."""
    runs: defaultdict[int, list[float]] = defaultdict(list)
    for step in steps:
        if step.found and not math.isnan(value(step.found)):
            runs[step.streams].append(value(step.found))
    return Series(
        name,
        tuple((float(streams), statistics.median(values)) for streams, values in runs.items()),
        tuple((min(values), max(values)) for values in runs.values()),
    )
