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

import msgspec

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
    Record,
    Server,
    Workload,
    cameras,
    fastest,
    in_batches,
    measure_in_turn,
    of_peer,
    stream_server,
)
from benchmarks.peers.work import MAX_BATCH
from benchmarks.report.results import Cell, Figure, Grid, Plot, Say, Section, Series, at_most, grid
from benchmarks.report.stats import part, percentile
from benchmarks.report.terminal import run

ECHO = Workload("echo", "frame", 8, rounds=3, closed_s=1.2, kept=True)
MANY_STREAMS = 32
NATURAL = Workload("faces-natural", "portrait", 4, rounds=3, closed_s=1.5, idle_s=4.0, overload_s=8.0)
FACES = Workload("faces-ours", "portrait", 4, rounds=3, closed_s=1.5, idle_s=4.0)

QUICK_ECHO = replace(ECHO, rounds=1, closed_s=0.8)
QUICK_NATURAL = replace(NATURAL, rounds=1, closed_s=1.0, idle_s=1.0, overload_s=2.0)

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
    servers: list[Server] = [stream_server()]
    batching: list[Server] = [in_batches(stream_server())]
    uninstalled: list[Record] = []
    for peer, python in prepare(peers, say).items():
        if isinstance(python, RunFailed):
            uninstalled.append(Record(peer.name, str(python)))
        else:
            servers.append(of_peer(peer, python))
            if peer.batches:
                batching.append(in_batches(servers[-1]))
    echo = QUICK_ECHO if quick else ECHO
    echoes, many_echoes = (
        measure_in_turn([*servers, *batching], replace(echo, streams=streams), say)
        for streams in (echo.streams, MANY_STREAMS)
    )
    workload = QUICK_NATURAL if quick else NATURAL
    natural = measure_in_turn(servers, workload, say)
    faces = [] if quick else measure_in_turn(servers, FACES, say)
    few = ""
    if quick:
        few = f" A quick run compares with {len(peers)} of {len(PEERS)} peers, and with OpenCV's detector alone."
    return [
        echo_section([*echoes, *uninstalled], few),
        many_section([*many_echoes, *uninstalled]),
        faces_section(natural, faces),
        overload_section(natural, workload.overload_s),
    ]


def cost(record: Record) -> float:
    """Give the median CPU milliseconds per frame."""
    return statistics.median(costs(record))


def costs(record: Record) -> list[float]:
    """Give the CPU milliseconds per frame of each round."""
    return [1e3 / run.per_cpu for run in record.closed]


def rate(record: Record) -> float:
    """Give the median frames per second."""
    return statistics.median(run.rate for run in record.closed)


def errors(record: Record) -> int:
    """Count the errors in closed loops."""
    return sum(run.errors for run in record.closed)


def normal_runs(record: Record) -> list[Run]:
    """Give the runs without overload: closed loops, and the idle one."""
    return [*record.closed, *([record.idle] if record.idle else [])]


def overload_runs(record: Record) -> list[Run]:
    """Give the run under overload, if there was one."""
    return [record.overload] if record.overload else []


def valid(records: Sequence[Record]) -> list[Record]:
    """Give those that completed all rounds without a void run."""
    rounds = max((len(record.closed) for record in records), default=0)
    return [
        record
        for record in records
        if record.closed and len(record.closed) == rounds and not first_void(normal_runs(record))
    ]


Missing: TypeAlias = list[tuple[str, str]]
"""Servers missing in a section, and why."""


def missing_in(
    records: Iterable[Record],
    shown: Sequence[Record],
    runs: Callable[[Record], Iterable[Run]] = normal_runs,
) -> Missing:
    """List the servers missing in a section that shows these `runs` of each."""
    return [
        (record.name, first_void(runs(record)) or record.missing) for record in records if record not in shown
    ]


def with_missing(section: Section, records: Iterable[Record], missing: Missing) -> Section:
    """Add a table of missing servers; the section is void without ours, which leaves nothing to compare."""
    if all(record.name != OURS for record in records):
        void = "the stream server did not take part"
    else:
        void = next((why for name, why in missing if name == OURS), "")
    left_out = [Grid("Left out", ("server", "why"), tuple(missing))] if missing else []
    return msgspec.structs.replace(section, grids=(*section.grids, *left_out), void=void)


def bars(name: str, records: Sequence[Record], categories: Sequence[str]) -> Series:
    """Make bars of the median CPU time per frame, in the order of the categories."""
    ordered = sorted(valid(records), key=lambda record: categories.index(record.name))
    return Series(
        name,
        tuple((float(categories.index(record.name)), cost(record)) for record in ordered),
        tuple((min(costs(record)), max(costs(record))) for record in ordered),
    )


def ratios(records: Sequence[Record], streams: int) -> tuple[Figure, ...]:
    """Compare our cost of an echo with those of `TARGETS`, round by round."""
    by_name = {record.name: costs(record) for record in valid(records)}
    pairs = [(cheaper(by_name, OURS), cheaper(by_name, name), target) for name, target in TARGETS]
    return tuple(
        at_most(
            f"echo, {streams} streams: CPU per frame of {us}, to {them}",
            (one / other for one, other in zip(by_name[us], by_name[them], strict=True)),
            target,
            "x",
            f"{statistics.median(by_name[us]):.3f} ms to {statistics.median(by_name[them]):.3f} ms",
        )
        for us, them, target in pairs
        if us and them
    )


def cheaper(by_name: Mapping[str, Sequence[float]], server: str) -> str | None:
    """Name the cheaper form of a server by its median, with or without batches; None if it is missing."""
    ways = [way for way in (server, server + IN_BATCHES) if way in by_name]
    return min(ways, key=lambda way: statistics.median(by_name[way]), default=None)


def echo_section(records: Sequence[Record], few: str = "") -> Section:
    """Show the cost of serving alone."""
    shown = valid(records)
    names = tuple(record.name for record in shown)
    series = (bars("CPU per frame", shown, names),)
    plot = Plot("What serving a frame costs", "", "CPU ms per frame", series, "bar", names, log=True)
    about = (
        f"The null model: each of {ECHO.streams} streams sends {FRAME_BYTES:,} bytes, gets their number back and "
        f"sends again. In batches, a server runs up to {MAX_BATCH} frames that wait in one call, as our model "
        f"`echo` does by default. {FAIR} Connections are kept; BentoML's two processes may "
        f"share them unevenly, which halves its frames/s at worst.{few}"
    )
    section = Section(
        "echo",
        about,
        ratios(records, ECHO.streams),
        (grid("The null model", shown, ECHOES), pinned()),
        (plot,),
    )
    return with_missing(section, records, missing_in(records, shown))


def many_section(records: Sequence[Record]) -> Section:
    """Show the cost of serving alone with many streams, where more frames wait at a time."""
    about = (
        f"The same with {MANY_STREAMS} streams: more frames wait at a time, and what a server can do to several at "
        "once it does."
    )
    shown = valid(records)
    grids = (grid("The null model", shown, ECHOES),)
    section = Section(f"echo, {MANY_STREAMS} streams", about, ratios(records, MANY_STREAMS), grids)
    return with_missing(section, records, missing_in(records, shown))


ECHOES: Mapping[str, Callable[[Record], Cell]] = {
    "server": lambda record: record.name,
    "CPU ms a frame": cost,
    "frames/s": rate,
    "ready in s": lambda record: record.ready_s,
    "memory MB": lambda record: record.memory / 1e6,
    "errors": errors,
}
"""The table of the null model."""


def pinned() -> Grid:
    """List the peers, their versions and their transport."""
    columns: Mapping[str, Callable[[Peer], Cell]] = {
        "server": lambda peer: peer.name,
        "requirements": lambda peer: ", ".join(peer.pins()),
        "transport": lambda peer: "a websocket" if peer.websocket else "a POST per frame",
    }
    return grid("The peers", PEERS, columns)


def faces_section(natural: Sequence[Record], faces: Sequence[Record]) -> Section:
    """Show the cost of finding faces, with both detectors in each server."""
    both = {"OpenCV's": natural, "this project's": faces}
    shown = [(model, record) for model, records in both.items() for record in valid(records)]
    names = tuple(dict.fromkeys(record.name for _, record in shown))
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
            cost(record),
            rate(record),
            *(record.idle.latency.percentiles(50, 100) if record.idle else ("", "")),
            float(errors(record)),
        )
        for model, record in shown
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
        for name, why in missing_in(records, valid(records))
    ]
    section = Section("faces", about, grids=(Grid("Finding faces", headings, rows),), plots=(plot,))
    return with_missing(section, [*natural, *faces], missing)


def overload_section(records: Sequence[Record], seconds: float) -> Section:
    """Show the age of answers under overload."""
    shown = [record for record in records if record.overload and not record.overload.void]
    runs = {record.name: run for record in shown for run in overload_runs(record)}
    series = (
        Series(name, tuple((moment.at, moment.p99) for moment in run.timeline if moment.at <= seconds))
        for name, run in runs.items()
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
    rows = tuple(overload_row(name, run, seconds) for name, run in runs.items())
    offered, most = cameras(records) * FPS, fastest(records)
    times = f" ({offered / most:.2g} times what the fastest server answers in a closed loop)" if most else ""
    about = (
        f"{cameras(records)} cameras of {FPS:.0f} frames a second send for {seconds:.0f} s, without "
        f"waiting: {offered:.0f} frames a second{times}. The model is OpenCV's detector in every server. Ages "
        "count from when a frame was due, not from when it got out. The stream server drops frames that a "
        "newer one of the same camera overtakes; the others answer all of them, refuse some (mosec: 408 after "
        "3 s) or stop reading, so that frames are late or never sent. The plot shows answers that came while "
        "frames were sent; the table's ages cover those after it, too. A frame without an answer has no age."
    )
    section = Section("overload", about, grids=(Grid("Overload", headings, rows),), plots=(plot,))
    return with_missing(section, records, missing_in(records, shown, overload_runs))


def overload_row(name: str, run: Run, seconds: float) -> tuple[str | float, ...]:
    """Make a server's row of the overload table."""
    ages = [(at, late) for at, _, late in run.answers]
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
