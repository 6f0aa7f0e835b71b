"""Starts servers side by side and measures them in turn; what the figures mean is decided elsewhere."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import psutil  # type: ignore[import-untyped]

from benchmarks.failures import RunFailed, without_paths
from benchmarks.load.generator import Load
from benchmarks.load.run import Run, drive, drive_again_if_void
from benchmarks.load.servers import POLITELY, STREAM_SERVER, Program, running
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.launcher import serving_peer
from benchmarks.peers.probe import item, wrong
from benchmarks.peers.work import BATCHED
from benchmarks.report.results import Say
from stream_server.client.sync import connect_sync
from stream_server.errors import ClientError
from stream_server.protocol.client_side import Result

OURS = "stream-server"

SPECIFIED: Mapping[str, str] = {
    "echo": "echo=benchmarks.peers.work:Echo",
    f"echo{BATCHED}": "echo",
    "faces-natural": "faces-natural=benchmarks.peers.work:NaturalFaces",
    "faces-ours": "faces",
}
"""The models of `work.MODELS` as arguments of the stream server. Only those named `BATCHED` use batches."""

IN_BATCHES = " in batches"
"""Suffix of the name of a server that runs in batches what it also runs item by item."""

WARM_S = 0.5
IDLE_FPS = 5.0
FPS = 15.0
CAMERAS = 8
"""The fewest under overload."""

OVERLOAD = 1.5
"""Frames offered, relative to the answers of the fastest server: enough for a growing queue on any machine, which
is still worked off soon after."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A server in the comparison, and how to start it with a model."""

    name: str
    start: Callable[[str], AbstractContextManager[Program]]


@dataclass(frozen=True, slots=True)
class Course:
    """The measurements of every server with one model.

    Attributes:
        model: a name in `work.MODELS`.
        payload: a name in `PAYLOADS`.
        streams: of the closed loop, with one frame in flight each.
        rounds: closed loops; the servers take turns.
        closed_s, idle_s, overload_s: seconds; 0 leaves a part out.
        kept: whether the closed loop's posts reuse connections. If a server's processes accept from one socket, one
            of them may get all kept connections while the others idle. New connections go to an idle process, and
            are cheap beside a picture, but not beside the null model.
    """

    model: str
    payload: str
    streams: int
    rounds: int
    closed_s: float
    idle_s: float = 0.0
    overload_s: float = 0.0
    kept: bool = False


@dataclass(slots=True, eq=False)
class Record:
    """The measurements of one server with one model.

    Attributes:
        missing: why measurements are missing; the others are kept.
        ready_s: seconds from its start to its first right answer.
        memory: resident bytes of its tree once it is warm.
        closed: streams that wait for each answer, a run for each round.
        idle: one stream of `IDLE_FPS`.
        overload: `CAMERAS` of `FPS` that do not wait.
    """

    name: str
    missing: str = ""
    ready_s: float = 0.0
    memory: int = 0
    closed: list[Run] = field(default_factory=list)
    idle: Run | None = None
    overload: Run | None = None


def ours() -> Entrant:
    """The stream server."""
    return Entrant(OURS, _serving_ours)


@contextmanager
def _serving_ours(model: str) -> Iterator[Program]:
    """Run the stream server; like a peer, it counts as ready when it has answered correctly."""
    started = time.perf_counter()
    with running(
        *POLITELY, *STREAM_SERVER, "--port", "0", "--model", SPECIFIED[model], quiet=True
    ) as program:
        try:
            with connect_sync(program.url, model=_named(model)) as stream:
                (answer,) = stream.process([item(model)])
        except ClientError as exc:
            raise RunFailed(f"{OURS} does not answer: {exc}") from exc
        if fault := wrong(model, answer.outputs) if isinstance(answer, Result) else str(answer):
            raise RunFailed(f"{OURS} answers wrong: {fault}")
        yield replace(program, ready_s=time.perf_counter() - started)


def of_peer(peer: Peer, python: str) -> Entrant:
    """Make an entrant of a peer; `python` has its requirements."""
    return Entrant(peer.name, lambda model: serving_peer(peer, model, python, ahead=POLITELY))


def in_batches(entrant: Entrant) -> Entrant:
    """Make an entrant of the same server with batches."""
    return Entrant(entrant.name + IN_BATCHES, lambda model: entrant.start(model + BATCHED))


def contest(entrants: Sequence[Entrant], course: Course, say: Say) -> list[Record]:
    """Measure every server on a course.

    All of them run all the time, so that rounds follow each other at once, but all except the measured one are
    stopped: an idle Ray Serve takes a tenth of a core. A server that fails is left out from then on.
    """
    records = [Record(entrant.name) for entrant in entrants]
    with ExitStack() as stack:
        programs: dict[str, Program] = {}
        for entrant, record in zip(entrants, records, strict=True):
            say(f"{course.model}: starting {record.name}")
            with _excused(record):
                programs[record.name] = stack.enter_context(_paused(entrant, course, record))
        for number in range(course.rounds):
            for record, program in _remaining(records, programs):
                say(f"{course.model}: round {number + 1} of {course.rounds}, {record.name}")
                with _excused(record), _awake(program):
                    record.closed.append(
                        _counted(drive_again_if_void(program, _closed(course, program, course.closed_s), say))
                    )
        for record, program in _remaining(records, programs) if course.idle_s else ():
            say(f"{course.model}: one camera on an idle server, {record.name}")
            with _excused(record), _awake(program):
                record.idle = _counted(
                    drive_again_if_void(program, _open(course, program, 1, IDLE_FPS, course.idle_s), say)
                )
        for record, program in _remaining(records, programs) if course.overload_s else ():
            say(f"{course.model}: {cameras(records)} cameras of {FPS:.0f} frames a second, {record.name}")
            with _excused(record), _awake(program):
                record.overload = drive_again_if_void(
                    program, _open(course, program, cameras(records), FPS, course.overload_s), say
                )
    return records


def fastest(records: Sequence[Record]) -> float:
    """Give the results per second of the fastest server in closed loops, by median rounds."""
    return max(
        (statistics.median(run.rate for run in record.closed) for record in records if record.closed),
        default=0.0,
    )


def cameras(records: Sequence[Record]) -> int:
    """Give a number of cameras that no server can answer."""
    return max(CAMERAS, math.ceil(OVERLOAD * fastest(records) / FPS))


def _remaining(
    records: Sequence[Record], programs: Mapping[str, Program]
) -> Iterator[tuple[Record, Program]]:
    return ((record, programs[record.name]) for record in records if not record.missing)


@contextmanager
def _excused(record: Record) -> Iterator[None]:
    """Record a server's failure instead of raising it."""
    try:
        yield
    except (RunFailed, psutil.Error, OSError) as exc:
        record.missing = without_paths(str(exc))


@contextmanager
def _paused(entrant: Entrant, course: Course, record: Record) -> Iterator[Program]:
    """Start a server, warm it up and pause it."""
    with entrant.start(course.model) as program:
        drive(program, [_closed(course, program, WARM_S)])
        record.ready_s, record.memory = program.ready_s, program.memory()
        program.pause()
        try:
            yield program
        finally:
            program.resume()  # so that it can end


@contextmanager
def _awake(program: Program) -> Iterator[None]:
    program.resume()
    try:
        yield
    finally:
        program.pause()


def _counted(run: Run) -> Run:
    if not run.results:
        raise RunFailed("it gave no results")
    return run


def _named(model: str) -> str:
    """What the stream server calls a model."""
    return SPECIFIED[model].partition("=")[0]


def _closed(course: Course, program: Program, seconds: float) -> Load:
    return Load(
        program.url,
        _named(course.model),
        course.payload,
        course.streams,
        seconds,
        transport=program.transport,
        kept=course.kept,
    )


def _open(course: Course, program: Program, streams: int, fps: float, seconds: float) -> Load:
    return Load(
        program.url,
        _named(course.model),
        course.payload,
        streams,
        seconds,
        policy="latest",
        rate=fps,
        transport=program.transport,
    )
