"""Overload: how fresh, fair and complete answers of the `faces` model stay with too many cameras."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load.accounts import Account, due_before
from benchmarks.load.generator import Load
from benchmarks.load.run import Run, drive, first_void, unaccounted
from benchmarks.load.servers import Program, serving
from benchmarks.report.results import Figure, Say, Section, at_least, at_most
from benchmarks.report.stats import jain, part, percentile

STREAMS, FPS = 24, 15.0
SECONDS = 20.0
SHORT_SECONDS = 4.0
"""Of the runs that are compared with each other."""

IDLE_FPS, IDLE_SECONDS = 10.0, 3.0
OTHERS, FLOOD = 20, 100.0
ROUNDS, FIFTHS = 3, 5


@dataclass(frozen=True, slots=True)
class Round:
    """Consecutive runs, so that a disturbance affects all of them."""

    loops: tuple[Run, Run]  # cameras that wait for each answer, before the overload and after it
    overload: Run  # cameras that send whatever is answered
    flood: Run  # fewer of them, and beside them one that sends `FLOOD` times as much

    @property
    def efficiency(self) -> float:
        """Answers per CPU second under overload, to the closed loops'."""
        return self.overload.per_cpu / statistics.mean(loop.per_cpu for loop in self.loops)

    @property
    def fair(self) -> float:
        """Answers per second that each of the flooded cameras would have if the flood were a camera like them."""
        return min(FPS, statistics.mean(loop.rate for loop in self.loops) / (OTHERS + 1))

    @property
    def others(self) -> list[float]:
        """Answers per second of each of the flooded cameras."""
        return [_rate(account) for account in self.flood.accounts[0]]


def _rate(account: Account) -> float:
    """Answers per second while all streams sent; the flood's backlog is read for longer."""
    return sum(at <= SHORT_SECONDS for at, _, _ in account.answers) / SHORT_SECONDS


def measure(say: Say) -> Section:
    """Measure an idle server, then rounds of closed loops, overload and flood."""
    with serving("faces") as server:
        say("warming up")
        drive(server, [_load(server, 4, 1.0)])
        say("one camera on an idle server")
        idle = drive(server, [_load(server, 1, IDLE_SECONDS, IDLE_FPS)])
        rounds = [_round(say, server, number) for number in range(ROUNDS)]
    return section(idle, rounds)


def section(idle: Run, rounds: Sequence[Round]) -> Section:
    """Make the section of an idle server's run and of all rounds."""
    return Section(
        "overload",
        f"{STREAMS} cameras of {FPS:.0f} frames per second, with the policy `latest`, are more than two cores "
        "carry: how fresh, fair and complete the answers of the model faces stay, beside cameras that wait for "
        f"each answer and beside a flood of {FLOOD:.0f} times a camera's frames. Age is the time from when a frame "
        "was due to its answer's arrival, by the client's clock; the last frame of each camera, which no newer one "
        "replaces, is not measured.",
        (*_freshness(idle, rounds[0].overload), *_sharing(rounds)),
        void=first_void([idle, *every(rounds)]),
    )


def _load(server: Program, streams: int, seconds: float, rate: float | None = None, seed: int = 1) -> Load:
    return Load(server.url, "faces", "portrait", streams, seconds, "latest", rate, seed=seed)


def _round(say: Say, server: Program, number: int) -> Round:
    seconds = SHORT_SECONDS if number else SECONDS
    closed = _load(server, STREAMS, SHORT_SECONDS)
    head = f"round {number + 1} of {ROUNDS}"
    say(f"{head}: {STREAMS} cameras that wait for each answer")
    before = drive(server, [closed])
    say(f"{head}: {STREAMS} cameras of {FPS:.0f} frames a second, for {seconds:.0f} s")
    overload = drive(server, [_load(server, STREAMS, seconds, FPS)])
    say(f"{head}: {STREAMS} cameras that wait for each answer")
    between = drive(server, [closed])
    say(f"{head}: {OTHERS} cameras beside one that sends {FLOOD:.0f} times as much")
    others = _load(server, OTHERS, SHORT_SECONDS, FPS)
    greedy = _load(server, 1, SHORT_SECONDS, FPS * FLOOD, seed=2)
    return Round((before, between), overload, drive(server, [others, greedy]))


def every(rounds: Sequence[Round]) -> list[Run]:
    """Give all runs of all rounds."""
    return [run for round_ in rounds for run in (*round_.loops, round_.overload, round_.flood)]


def ages(run: Run) -> list[tuple[float, float]]:
    """Give when each measured result came, in seconds, and how many milliseconds after its frame was due."""
    return due_before([(at, late) for at, _, late in run.answers], run.measured_s)


def _freshness(idle: Run, overload: Run) -> list[Figure]:
    moments = ages(overload)
    idle_ms = statistics.median(age for _, age in ages(idle))
    first, last = (percentile(part(moments, FIFTHS, n, SECONDS), 99) for n in (0, FIFTHS - 1))
    inside = [age for _, age, _ in overload.answers]
    return [
        at_most(
            "overload: age p99",
            percentile([age for _, age in moments], 99),
            1e3 / FPS + 4 * idle_ms,
            "ms",
            f"idle {idle_ms:.1f} ms; {overload.rate:.0f} answers/s to {STREAMS * FPS:.0f}; "
            f"by the server's age_ms {percentile(inside, 99):.0f} ms",
        ),
        at_most(
            "overload: age p99, last fifth to first",
            last / first,
            1.2,
            note=f"{first:.0f} ms, then {last:.0f} ms",
        ),
        at_least(
            "overload: Jain index of answers per stream",
            jain([account.results for account in overload.streams]),
            0.99,
        ),
    ]


def _sharing(rounds: Sequence[Round]) -> list[Figure]:
    floods = [round_.flood for round_ in rounds]
    runs = every(rounds)
    loops, overloads = (
        statistics.median(run.per_cpu for run in some)
        for some in ([r.loops[0] for r in rounds], [r.overload for r in rounds])
    )
    greedy = statistics.median(flood.accounts[1][0].sent / SHORT_SECONDS for flood in floods)
    equal = statistics.median(
        statistics.mean(r.others) * (OTHERS + 1) / sum(map(_rate, r.flood.streams))
        for r in rounds
        if r.flood.results
    )
    return [
        at_least(
            "overload: answers per CPU second, to a closed loop's",
            (round_.efficiency for round_ in rounds),
            0.95,
            note=f"{overloads:.0f} to {loops:.0f}",
        ),
        at_least(
            "flood: the others' answers, to their fair share",
            (statistics.mean(round_.others) / round_.fair for round_ in rounds),
            0.95,
            note=f"flood {greedy:.0f}/s; of what was answered the others have {equal:.2f} of an equal part; "
            f"programs not measured used up to {max(run.foreign for run in runs):.1f} cores",
        ),
        unaccounted("overload, flood: frames unaccounted for", runs),
    ]
