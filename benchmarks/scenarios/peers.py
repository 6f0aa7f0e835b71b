"""Other servers on the same work in the same run: the cost of a frame, and behaviour under overload.

``python -m benchmarks.scenarios.peers`` measures all peers, or those named, beside the stream server.
"""

from __future__ import annotations

if __name__ == "__main__":
    from benchmarks.failures import check_installed

    check_installed()

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from benchmarks.failures import RunFailed
from benchmarks.load.payloads import FRAME_BYTES
from benchmarks.load.run import Run, first_void
from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.environments import prepare
from benchmarks.peers.runner import (
    FPS,
    IDLE_FPS,
    IN_BATCHES,
    OURS,
    Course,
    Entrant,
    Record,
    cameras,
    contest,
    fastest,
    in_batches,
    of_peer,
    ours,
)
from benchmarks.peers.work import MAX_BATCH
from benchmarks.report.results import Figure, Grid, Plot, Say, Section, Series, at_most, grid
from benchmarks.report.stats import part, percentile
from benchmarks.report.terminal import run

ECHO = Course("echo", "frame", 8, rounds=3, closed_s=1.2, kept=True)
MANY = replace(ECHO, streams=32)
NATURAL = Course("faces-natural", "portrait", 4, rounds=3, closed_s=1.5, idle_s=4.0, overload_s=8.0)
FACES = Course("faces-ours", "portrait", 4, rounds=3, closed_s=1.5, idle_s=4.0)

QUICK_ECHO = replace(ECHO, rounds=1, closed_s=0.8)
QUICK_MANY = replace(QUICK_ECHO, streams=32)
QUICK_NATURAL = Course("faces-natural", "portrait", 4, rounds=1, closed_s=1.0, idle_s=1.0, overload_s=2.0)

TARGETS = (("mosec", 1.0), ("aiohttp + pool", 0.3), ("LitServe", 0.1))
"""Upper bounds of our CPU per frame, relative to a peer's; each server with or without batches, as is cheaper:
mosec's front end is written in Rust, the second is what people write by hand, the third advertises speed."""

FIFTHS = 5

FAIR = (
    "All servers run on the same cores of this machine, with two workers, one thread in each, batches of one "
    "unless it says in batches, logs off, and otherwise as their documentation advises: aiohttp runs on "
    "asyncio's own loop, and the stream server, FastAPI and all that use uvicorn run on uvloop. The models are "
    "the same code in the same versions. Peers answer a POST with the bytes of a frame, or a message on a plain"
    " websocket; the stream server speaks its own protocol, which also counts, orders and ages every frame. "
    "They take turns, and are stopped while another one is measured. The load has the cores first, as if it "
    "came from another machine, so that rates are lower than a server alone would reach; CPU is that of a "
    "server's whole process tree, and no part of the load's."
)


def measure(say: Say, quick: bool) -> list[Section]:
    """Compare with all peers; in a quick run with those that install and start quickly."""
    return compare([peer for peer in PEERS if peer.quick or not quick], say, quick=quick)


def compare(peers: Sequence[Peer], say: Say, *, quick: bool) -> list[Section]:
    """Compare the stream server with these peers."""
    environments = prepare(peers, say)
    entrants: list[Entrant] = [ours()]
    batching: list[Entrant] = [in_batches(ours())]
    uninstalled: list[Record] = []
    for peer, python in environments.items():
        if isinstance(python, RunFailed):
            uninstalled.append(Record(peer.name, str(python)))
        else:
            entrants.append(of_peer(peer, python))
            if peer.batches:
                batching.append(in_batches(entrants[-1]))
    echoes = (QUICK_ECHO, QUICK_MANY) if quick else (ECHO, MANY)
    bearing = QUICK_NATURAL if quick else NATURAL
    few_echoes, many_echoes = (contest([*entrants, *batching], course, say) for course in echoes)
    natural = contest(entrants, bearing, say)
    faces = [] if quick else contest(entrants, FACES, say)
    few = ""
    if quick:
        few = f" A quick run compares with {len(peers)} of {len(PEERS)} peers, and with OpenCV's detector alone."
    return [
        echo_section([*few_echoes, *uninstalled], few),
        many_section([*many_echoes, *uninstalled]),
        faces_section(natural, faces),
        overload_section(natural, bearing.overload_s),
    ]


def costs(record: Record) -> list[float]:
    """Give the CPU milliseconds per frame of each round."""
    return [1e3 / run.per_cpu for run in record.closed]


def bearable(record: Record) -> list[Run]:
    """Give the runs without overload: closed loops, and the idle one."""
    return [*record.closed, *([record.idle] if record.idle else [])]


def overloading(record: Record) -> list[Run]:
    """Give the run under overload, if there was one."""
    return [record.overload] if record.overload else []


def measured(records: Sequence[Record]) -> list[Record]:
    """Give those that completed all rounds without a void run."""
    rounds = max((len(record.closed) for record in records), default=0)
    return [
        record
        for record in records
        if record.closed and len(record.closed) == rounds and not first_void(bearable(record))
    ]


def overloaded(records: Sequence[Record]) -> list[tuple[Record, Run]]:
    """Give those with a valid run under overload."""
    return [(record, run) for record in records for run in overloading(record) if not run.void]


Absent: TypeAlias = list[tuple[str, str]]
"""Servers missing in a section, and why."""


def absent(
    records: Iterable[Record], there: Sequence[Record], runs: Callable[[Record], Iterable[Run]] = bearable
) -> Absent:
    """List the servers missing in a section that shows these `runs` of each."""
    return [
        (record.name, first_void(runs(record)) or record.missing) for record in records if record not in there
    ]


def left_out(missing: Absent) -> list[Grid]:
    """Make a table of missing servers, if there are any."""
    return [Grid("Left out", ("server", "why"), tuple(missing))] if missing else []


def void_of(records: Iterable[Record], missing: Absent) -> str:
    """Say why a section is void: without our server there is nothing to compare."""
    if all(record.name != OURS for record in records):
        return "the stream server did not take part"
    return next((why for name, why in missing if name == OURS), "")


def bars(name: str, records: Sequence[Record], categories: Sequence[str]) -> Series:
    """Make bars of the median CPU time per frame, in the order of the categories."""
    ordered = sorted(measured(records), key=lambda record: categories.index(record.name))
    return Series(
        name,
        tuple((float(categories.index(record.name)), statistics.median(costs(record))) for record in ordered),
        tuple((min(costs(record)), max(costs(record))) for record in ordered),
    )


def ratios(records: Sequence[Record], streams: int) -> list[Figure]:
    """Compare our cost of an echo with those of `TARGETS`, round by round."""
    by_name = {record.name: costs(record) for record in measured(records)}
    pairs = [(cheaper(by_name, OURS), cheaper(by_name, name), target) for name, target in TARGETS]
    return [
        at_most(
            f"echo, {streams} streams: CPU per frame of {us}, to {them}",
            (one / other for one, other in zip(by_name[us], by_name[them], strict=True)),
            target,
            "x",
            f"{statistics.median(by_name[us]):.3f} ms to {statistics.median(by_name[them]):.3f} ms",
        )
        for us, them, target in pairs
        if us and them
    ]


def cheaper(by_name: Mapping[str, Sequence[float]], server: str) -> str | None:
    """Name the cheaper form of a server by its median, with or without batches; None if it is missing."""
    ways = [way for way in (server, server + IN_BATCHES) if way in by_name]
    return min(ways, key=lambda way: statistics.median(by_name[way]), default=None)


def echo_section(records: Sequence[Record], few: str = "") -> Section:
    """Show the cost of serving alone."""
    there = measured(records)
    names = tuple(record.name for record in there)
    plot = Plot(
        "What serving a frame costs",
        "",
        "CPU ms per frame",
        (bars("CPU per frame", there, names),),
        "bar",
        names,
        log=True,
    )
    about = (
        f"The null model: each of {ECHO.streams} streams sends {FRAME_BYTES:,} bytes, gets their number back and "
        f"sends again. In batches, a server runs up to {MAX_BATCH} frames that wait in one call, as our model "
        f"`echo` does when it is not told otherwise. {FAIR} Connections are kept; BentoML's two processes may "
        f"share them unevenly, which halves its frames/s at worst.{few}"
    )
    missing = absent(records, there)
    grids = (echoes_grid(there), pinned(), *left_out(missing))
    return Section(
        "echo", about, tuple(ratios(records, ECHO.streams)), grids, (plot,), void_of(records, missing)
    )


def many_section(records: Sequence[Record]) -> Section:
    """Show the cost of serving alone with many streams, where more frames wait at a time."""
    about = (
        f"The same with {MANY.streams} streams: more frames wait at a time, and what a server can do to several at "
        "once it does."
    )
    there = measured(records)
    missing = absent(records, there)
    grids = (echoes_grid(there), *left_out(missing))
    figures = tuple(ratios(records, MANY.streams))
    return Section(f"echo, {MANY.streams} streams", about, figures, grids, (), void_of(records, missing))


def echoes_grid(there: Sequence[Record]) -> Grid:
    """Make the table of the null model."""
    columns: dict[str, Callable[[Record], str | float]] = {
        "server": lambda record: record.name,
        "CPU ms a frame": lambda record: statistics.median(costs(record)),
        "frames/s": lambda record: statistics.median(run.rate for run in record.closed),
        "ready in s": lambda record: record.ready_s,
        "memory MB": lambda record: record.memory / 1e6,
        "errors": lambda record: sum(run.errors for run in record.closed),
    }
    return grid("The null model", there, columns)


def pinned() -> Grid:
    """List the peers, their versions and their transport."""
    rows = tuple(
        (peer.name, ", ".join(peer.pins()), "a websocket" if peer.websocket else "a POST per frame")
        for peer in PEERS
    )
    return Grid("The peers", ("server", "requirements", "spoken to over"), rows)


def faces_section(natural: Sequence[Record], faces: Sequence[Record]) -> Section:
    """Show the cost of finding faces, with both detectors in each server."""
    both = {"OpenCV's": natural, "this project's": faces}
    everybody, there = [*natural, *faces], [*measured(natural), *measured(faces)]
    names = tuple(dict.fromkeys(record.name for record in there))
    plot = Plot(
        "What finding faces in a frame costs, with either detector",
        "",
        "CPU ms per frame",
        tuple(bars(name, records, names) for name, records in both.items()),
        "bar",
        names,
    )
    headings = ("server", "detector", "CPU ms a frame", "frames/s", "idle p50 ms", "idle worst ms", "errors")
    rows = tuple(
        (
            record.name,
            model,
            statistics.median(costs(record)),
            statistics.median(run.rate for run in record.closed),
            *(record.idle.latency.percentiles(50, 100) if record.idle else ("", "")),
            float(sum(run.errors for run in record.closed)),
        )
        for model, records in both.items()
        for record in measured(records)
    )
    about = (
        "YuNet on a JPEG of 640x480 with one face, as OpenCV's documentation runs it (cv2.imdecode and "
        "cv2.FaceDetectorYN) and as this project does, each in every server, so that server and model can be "
        f"told apart. {NATURAL.streams} streams wait for each answer, and each POST of theirs has a connection "
        f"of its own; idle is one stream of {IDLE_FPS:.0f} frames a second, too few for more than a median and the "
        "worst."
    )
    missing = [
        (name, f"{model} detector: {why}")
        for model, records in both.items()
        for name, why in absent(records, there)
    ]
    grids = (Grid("Finding faces", headings, rows), *left_out(missing))
    return Section("faces", about, (), grids, (plot,), void_of(everybody, missing))


def overload_section(records: Sequence[Record], seconds: float) -> Section:
    """Show the age of answers under overload."""
    runs = overloaded(records)
    series = tuple(
        Series(record.name, tuple((moment.at, moment.p99) for moment in run.timeline if moment.at <= seconds))
        for record, run in runs
    )
    plot = Plot(
        "Age of answers when more frames come than can be answered",
        "s",
        "ms from scheduled to answered, p99 of each quarter second",
        tuple(one for one in series if one.points),
        log=True,
    )
    headings = (
        "server",
        "answers/s",
        "age p50 ms",
        "age p99 ms",
        "p99 in the last fifth",
        "dropped %",
        "refused or failed %",
        "never sent %",
    )
    offered, most = cameras(records) * FPS, fastest(records)
    times = f" ({offered / most:.2g} times what the fastest server answers in a closed loop)" if most else ""
    about = (
        f"{cameras(records)} cameras of {FPS:.0f} frames a second send for {seconds:.0f} s, whatever is "
        f"answered: {offered:.0f} frames a second{times}. The model is OpenCV's detector in every server. Ages "
        "count from when a frame was due, not from when it got out. The stream server drops frames that a "
        "newer one of the same camera overtakes; the others answer all of them, refuse some (mosec: 408 after "
        "3 s) or stop reading, so that frames are late or never sent. The plot shows answers that came while "
        "frames were sent; the table's ages cover those after it, too. A frame without an answer has no age."
    )
    rows = tuple(overload_row(record.name, run, seconds) for record, run in runs)
    missing = absent(records, [record for record, _ in runs], overloading)
    grids = (Grid("Overload", headings, rows), *left_out(missing))
    return Section("overload", about, (), grids, (plot,), void_of(records, missing))


def overload_row(name: str, run: Run, seconds: float) -> tuple[str | float, ...]:
    """Make a server's row of the overload table."""
    ages = [(at, late) for account in run.streams for at, _, late in account.answers]
    last = part(ages, FIFTHS, FIFTHS - 1, seconds)
    every = [late for _, late in ages]
    due = run.sent + run.unsent
    return (
        name,
        run.rate,
        *((percentile(every, 50), percentile(every, 99)) if every else ("", "")),
        percentile(last, 99) if last else "no answer",
        *(100 * count / due for count in (run.dropped, run.errors, run.unsent)),
    )


def main() -> int:
    """Compare what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios.peers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, and only quick peers")
    names = ", ".join(peer.module for peer in PEERS)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {names}; default: all")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write them as a page, too")
    args = parser.parse_args()
    if unknown := set(args.only) - {peer.module for peer in PEERS}:
        parser.error(f"no peer {min(unknown)!r}; there are {names}")

    def suite(say: Say, quick: bool) -> list[Section]:
        chosen = [peer for peer in PEERS if peer.module in args.only]
        return compare(chosen, say, quick=quick) if chosen else measure(say, quick)

    return run({"peers": suite}, quick=args.quick, output=args.output, html=args.html)


if __name__ == "__main__":
    sys.exit(main())
