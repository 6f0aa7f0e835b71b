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
from benchmarks.peers.launcher import item, serving_peer, wrong
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
class Server:
    """A server in the comparison, and how to start it with a model."""

    name: str
    start: Callable[[str], AbstractContextManager[Program]]


@dataclass(frozen=True, slots=True)
class Workload:
    """The measurements of every server with one model; a part of 0 seconds is left out."""

    model: str  # a name in `work.MODELS`
    payload: str  # a name in `PAYLOADS`
    streams: int  # of the closed loop, with one frame in flight each
    rounds: int  # closed loops; the servers take turns
    closed_s: float
    idle_s: float = 0.0
    overload_s: float = 0.0
    # whether the closed loop's posts reuse connections: if a server's processes accept from one socket, one of
    # them may get all kept connections while the others idle; new connections go to an idle process, and are cheap
    # beside a picture, but not beside the null model
    kept: bool = False


@dataclass(slots=True, eq=False)
class Record:
    """The measurements of one server with one model."""

    name: str
    missing: str = ""  # why measurements are missing; the others are kept
    ready_s: float = 0.0  # seconds from its start to its first right answer
    memory: int = 0  # resident bytes of its tree once it is warm
    closed: list[Run] = field(default_factory=list)  # streams that wait for each answer, a run for each round
    idle: Run | None = None  # one stream of `IDLE_FPS`
    overload: Run | None = None  # `CAMERAS` of `FPS` that do not wait


def stream_server() -> Server:
    """The stream server."""
    return Server(OURS, _serving_ours)


@contextmanager
def _serving_ours(model: str) -> Iterator[Program]:
    """Run the stream server; like a peer, it counts as ready when it has answered correctly."""
    started = time.perf_counter()
    command = (*POLITELY, *STREAM_SERVER, "--port", "0", "--model", SPECIFIED[model])
    with running(*command, quiet=True) as program:
        try:
            with connect_sync(program.url, model=_named(model)) as stream:
                (answer,) = stream.process([item(model)])
        except ClientError as exc:
            raise RunFailed(f"{OURS} does not answer: {exc}") from exc
        if fault := wrong(model, answer.outputs) if isinstance(answer, Result) else str(answer):
            raise RunFailed(f"{OURS} gives a wrong answer: {fault}")
        yield replace(program, ready_s=time.perf_counter() - started)


def of_peer(peer: Peer, python: str) -> Server:
    """Make a server of a peer; `python` has its requirements."""
    return Server(peer.name, lambda model: serving_peer(peer, model, python, ahead=POLITELY))


def in_batches(server: Server) -> Server:
    """Make the same server with batches."""
    return Server(server.name + IN_BATCHES, lambda model: server.start(model + BATCHED))


def measure_in_turn(servers: Sequence[Server], workload: Workload, say: Say) -> list[Record]:
    """Measure every server with a workload.

    All of them run all the time, so that rounds follow each other at once, but all except the measured one are
    stopped: an idle Ray Serve takes a tenth of a core. A server that fails is left out from then on.
    """
    records = [Record(server.name) for server in servers]
    programs: dict[str, Program] = {}

    def runs(
        what: str, streams: int, seconds: float, fps: float | None = None, *, answers: bool = True
    ) -> Iterator[tuple[Record, Run]]:
        """Drive each server that has not failed; without results it fails if there should be `answers`."""
        for record in records if seconds else ():
            if record.missing:
                continue
            say(f"{workload.model}: {what}, {record.name}")
            with _failure_in(record), _awake(programs[record.name]) as program:
                run = drive_again_if_void(program, _load(workload, program, streams, seconds, fps), say)
                if answers and not run.results:
                    raise RunFailed("it gave no results")
                yield record, run

    with ExitStack() as stack:
        for server, record in zip(servers, records, strict=True):
            say(f"{workload.model}: starting {record.name}")
            with _failure_in(record):
                programs[record.name] = stack.enter_context(_paused(server, workload, record))
        for number in range(1, workload.rounds + 1):
            what = f"round {number} of {workload.rounds}"
            for record, run in runs(what, workload.streams, workload.closed_s):
                record.closed.append(run)
        for record, run in runs("one camera on an idle server", 1, workload.idle_s, IDLE_FPS):
            record.idle = run
        many = cameras(records)
        what = f"{many} cameras of {FPS:.0f} frames a second"
        for record, run in runs(what, many, workload.overload_s, FPS, answers=False):
            record.overload = run
    return records


def fastest(records: Sequence[Record]) -> float:
    """Give the results per second of the fastest server in closed loops, by median rounds."""
    rates = (statistics.median(run.rate for run in record.closed) for record in records if record.closed)
    return max(rates, default=0.0)


def cameras(records: Sequence[Record]) -> int:
    """Give a number of cameras that no server can answer."""
    return max(CAMERAS, math.ceil(OVERLOAD * fastest(records) / FPS))


@contextmanager
def _failure_in(record: Record) -> Iterator[None]:
    """Record a server's failure instead of raising it."""
    try:
        yield
    except (RunFailed, psutil.Error, OSError) as exc:
        record.missing = without_paths(str(exc))


@contextmanager
def _paused(server: Server, workload: Workload, record: Record) -> Iterator[Program]:
    """Start a server, warm it up and pause it."""
    with server.start(workload.model) as program:
        drive(program, [_load(workload, program, workload.streams, WARM_S)])
        record.ready_s, record.memory = program.ready_s, program.memory()
        program.pause()
        try:
            yield program
        finally:
            program.resume()  # so that it can end


@contextmanager
def _awake(program: Program) -> Iterator[Program]:
    program.resume()
    try:
        yield program
    finally:
        program.pause()


def _named(model: str) -> str:
    """What the stream server calls a model."""
    return SPECIFIED[model].partition("=")[0]


def _load(
    workload: Workload, program: Program, streams: int, seconds: float, fps: float | None = None
) -> Load:
    return Load(
        program.url,
        _named(workload.model),
        workload.payload,
        streams,
        seconds,
        policy="latest" if fps else "queue",
        rate=fps,
        transport=program.transport,
        kept=workload.kept or fps is not None,
    )
